"""The one exception for mistakes a user can make, and how an error is told in one line, however deep Ray wraps it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from ray.exceptions import RayError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# The line of a traceback that names the exception and says its message.
_RAISED = re.compile(r"^((?:\w+\.)*)(\w*(?:Error|Exception|Interrupt|Exit))\b(?:\(\w+\))?(: .*)?$")


class UserError(Exception):
    """Bad input, in one line: what was wrong, where, and what to do. The command line prints it and exits with 1."""


@contextmanager
def at(where: str) -> Iterator[None]:
    """Puts before the message of a user's mistake where it is: a file, an experiment, a key."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Around a call of anyone's environment: what it raises becomes a user's mistake that begins with ``what``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {one_line(error)}") from error


@dataclass(frozen=True)
class Problem:
    """What pydantic found wrong with values from a file."""

    levels: tuple[str, ...]
    """Keys that lead to it, the outermost first; none where it is of the whole."""
    kind: str
    """Pydantic's name for it, such as "missing"."""
    message: str
    given: Any

    @property
    def key(self) -> str:
        return ".".join(self.levels)


def problem_in(error: ValidationError) -> Problem:
    """The first problem of several, but an unknown key before others: a misspelt one leaves the right one missing."""
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    return Problem(tuple(map(str, first["loc"])), first["type"], message, first["input"])


def unreadable(error: OSError | ValidationError) -> str:
    """Why a file could not be read, or is not in its layout."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    problem = problem_in(error)
    return ": ".join(filter(None, (" ".join(problem.levels), problem.message)))  # keys may hold dots here


def user_error(error: BaseException) -> UserError | None:
    """The user's mistake that an error tells of: itself, or what Ray wraps around it. None if it tells of none."""
    inner = _unwrapped(error)
    if isinstance(inner, UserError):
        return inner
    # Of an error in an actor's constructor Ray keeps the text alone.
    name, message = raised(str(inner)) if isinstance(inner, RayError) else ("", "")
    return UserError(message) if name == UserError.__name__ else None


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, colours and other machines' tracebacks; its type's name if it has none.

    Where Ray wraps an error this is the message of the error inside.
    """
    inner = _unwrapped(error)
    if isinstance(inner, RayError):
        name, message = raised(str(inner))
        if message:
            return message if name == UserError.__name__ else f"{name}: {message}"
    return " ".join(plain(str(inner)).split()) or type(inner).__name__


def raised(text: str) -> tuple[str, str]:
    """The name and message of the exception that a traceback ends with: of the last line that names one.

    Where no line does, the name is empty and the message the last line.
    """
    lines = [line.strip() for line in plain(text).splitlines() if line.strip()]
    for line in reversed(lines):
        if found := _RAISED.match(line):
            return found[2], (found[3] or "").removeprefix(": ")
    return "", lines[-1] if lines else ""


def plain(text: str) -> str:
    """A text without the colours of a terminal."""
    return _COLOURS.sub("", text)


def _unwrapped(error: BaseException) -> BaseException:
    """The error that a task, an actor or a training worker raised, inside those that Ray and Ray Train make of it."""
    seen: set[int] = set()
    while id(error) not in seen and (type(error).__module__.startswith("ray.") or isinstance(error, RayError)):
        seen.add(id(error))
        error = next(iter(_inside(error)), error)
    return error


def _inside(error: BaseException) -> list[BaseException]:
    """What an error of Ray holds: a task's cause, what a training worker or Ray Train's controller raised."""
    found = [getattr(error, "cause", None), getattr(error, "controller_failure", None)]
    found += getattr(error, "worker_failures", {}).values()
    return [inner for inner in (*found, error.__cause__) if isinstance(inner, BaseException)]
