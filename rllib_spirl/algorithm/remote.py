"""Errors of env runners in other processes, brought to the one that asked.

RLlib takes whatever an env runner raises for a reason to start another one a minute later, again and again, so that a
fault of an environment would never be told.
"""

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """What a call raised in another process."""

    error: Exception
    where: str
    """Its traceback."""


class RemoteTraceback(Exception):
    """The traceback of an error in another process, as its cause."""


def attempt(call: Callable[[], T]) -> T | Failure:
    """What a call returns, or how it failed. What ends the process itself is not kept from RLlib."""
    try:
        return call()
    except Exception as error:
        where = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))  # our own, of a moment ago
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Failure(error, where)


def result_of(attempted: T | Failure) -> T:
    """What `attempt` returned in another process. Raises what was raised there."""
    if isinstance(attempted, Failure):
        raise attempted.error from RemoteTraceback(attempted.where)
    return attempted
