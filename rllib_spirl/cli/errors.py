"""How every command of the package ends when the user made a mistake: one line on stderr, exit code 1."""

import sys

import typer

from rllib_spirl.errors import UserError


def run(app: typer.Typer) -> None:
    """Run a command-line app; a ``UserError`` ends it with ``error: ...`` on stderr and exit code 1.

    Raises:
        SystemExit: always, with the exit code of the command (2 for wrong options, 130 after Ctrl-C).
    """
    try:
        app()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
