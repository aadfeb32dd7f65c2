"""One process at a time."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from rllib_spirl import paths
from rllib_spirl.errors import UserError
from rllib_spirl.progress import stage

PATIENCE_S = 5
# What a file system without locks answers, as some clusters have: no worse than without this.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def sole(file: Path, task: str) -> Iterator[None]:
    """Hold a lock on ``file``, for which this waits while another process holds it. A process that dies lets go of it.

    Args:
        file: Made if it is missing, and left there.
        task: What a holder does, for a line that says so once the wait has taken some seconds.

    Raises:
        UserError: If the file cannot be made.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        Console(stderr=True).print(f"Another process is {task} in {file.parent}; waiting for its end.", markup=False)
        with stage(f"waiting for another process that is {task}"):
            lock.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(f"{file.parent} cannot be written to: {error.strerror or error}.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def sole_writer(place: Path, task: str) -> Iterator[None]:
    """`sole` for a place that is still to be made, or that is to hold nothing else: the lock lies in `paths.home`.

    Raises:
        UserError: If there can be no file.
    """
    with sole(_lock_of(place), task):
        yield


@contextmanager
def sole_if_free(place: Path) -> Iterator[bool]:
    """As `sole_writer`, but without waiting: whether this process holds the lock, as far as there are locks.

    Raises:
        UserError: If there can be no file.
    """
    lock = FileLock(_lock_of(place))
    try:
        lock.acquire(timeout=0)
        held = True
    except Timeout:
        held = False
    except (NotImplementedError, OSError):  # nobody can
        held = True
    try:
        yield held
    finally:
        lock.release()


def _lock_of(place: Path) -> Path:
    locks = paths.home() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{locks} cannot be made: {reason}; set RLLIB_SPIRL_HOME to a folder of yours.") from None
    return locks / f"{hashlib.sha256(str(place.absolute()).encode()).hexdigest()[:12]}.lock"
