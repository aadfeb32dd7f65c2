"""How every command of the package ends when something went wrong: one line on stderr, exit code 1."""

import errno
import signal
import sys

import typer
from ray.exceptions import RayError

from rllib_spirl.errors import UserError, one_line, plain, user_error

# A disk that is full, or a place that is not to be written to: no error in a program, wherever it comes up.
_OF_A_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def run(app: typer.Typer) -> None:
    """Run a command-line app; a user's mistake ends it with ``error: ...`` on stderr and exit code 1.

    So does an error in another process, but with that process's traceback before the line: it may be one in code of
    ours. Where Ray wraps a user's mistake, the mistake alone is told.

    Raises:
        SystemExit: always, with the exit code of the command (2 for wrong options, 130 after Ctrl-C or SIGTERM).
    """
    # Terminated, as after Ctrl-C: what a command has started ends with it, and what is half written is taken away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except Exception as error:
        mistake = user_error(error) or _of_a_place(error)
        if mistake is None and not isinstance(error, RayError):
            raise
        if mistake is None:
            print(plain(str(error)), file=sys.stderr)
        print(f"error: {one_line(mistake or error)}", file=sys.stderr)
        sys.exit(1)


def _of_a_place(error: BaseException) -> UserError | None:
    """What the operating system says of a full disk or of a place that is closed to this user, as a user's mistake."""
    if not isinstance(error, OSError) or error.errno not in _OF_A_PLACE:
        return None
    place = f"{error.filename}: " if error.filename else ""
    remedy = "free some" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name another place, or change its rights"
    return UserError(f"{place}{error.strerror or error}; {remedy}.")
