"""One process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

PATIENCE_S = 5


@contextmanager
def sole(file: Path, task: str) -> Iterator[None]:
    """Hold a lock on ``file``, for which this waits while another process holds it. A process that dies lets go of it.

    Args:
        file: Made if it is missing, and left there.
        task: What a holder does, for a line that says so once the wait has taken some seconds.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        Console(stderr=True).print(f"Another process is {task} in {file.parent}; waiting for its end.")
        lock.acquire()
    except NotImplementedError:
        pass  # a file system without locks, as some clusters have: no worse than without this
    try:
        yield
    finally:
        lock.release()
