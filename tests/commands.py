"""The commands as a shell would call them, in this process."""

import sys

import pytest

from rllib_spirl.cli import errors, rllib, spirl


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command line in this process; returns its exit code."""
    app = {"rllib": rllib.app, "spirl": spirl.app}[arguments[0]]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        errors.run(app)
    return int(ended.value.code or 0)
