"""How far a stage of work is: a bar on a terminal, elsewhere a line at least every quarter of a minute."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 15.0
T = TypeVar("T")


class Stage:
    """The progress of one stage. Any thread may call its methods.

    Args:
        name: What is done, e.g. "recording demonstrations".
        total: How many steps that takes, or None where it is not known.
        done: How many of them were done before.
    """

    def __init__(self, name: str, total: int | None, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self.detail = ""
        """What is being done just now; it is shown behind the name."""
        self._first, self._begun = done, time.monotonic()
        self._changed: Callable[[], None] = lambda: None

    def advance(self, steps: int = 1) -> None:
        self.set(self.done + steps)

    def set(self, done: int, detail: str | None = None) -> None:
        """Say how many steps are done, and optionally what comes next."""
        self.done = done
        self.detail = self.detail if detail is None else detail
        self._changed()

    def line(self) -> str:
        """The progress in words: name, steps done, time since the beginning and, where it can be told, time left."""
        elapsed = time.monotonic() - self._begun
        steps = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        parts = [f"{self.title}: {steps}" if self.total != 1 else self.title, f"{_clock(elapsed)} so far"]
        if self.total is not None and self.done > self._first:
            parts.append(f"{_clock(elapsed * (self.total - self.done) / (self.done - self._first))} left")
        return ", ".join(parts)

    @property
    def title(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


@contextmanager
def stage(name: str, total: int | None = None, *, done: int = 0, show: bool = True) -> Iterator[Stage]:
    """Show a stage's progress on stderr from its beginning to its end.

    Args:
        name: What is done, e.g. "recording demonstrations".
        total: How many steps that takes, or None where it is not known.
        done: How many of them were done before.
        show: Whether to show anything.
    """
    progress = Stage(name, total, done)
    console = Console(stderr=True)
    if not show:
        yield progress
    elif console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bar:
            task = bar.add_task(name, total=total, completed=done)
            progress._changed = lambda: bar.update(task, completed=progress.done, description=progress.title)
            yield progress
    else:
        ended = threading.Event()
        thread = threading.Thread(target=_tell, args=(progress, console, ended), daemon=True)
        thread.start()
        try:
            yield progress
        finally:
            ended.set()
            thread.join()


def track(steps: Iterable[T], name: str, *, total: int | None = None, show: bool = True) -> Iterator[T]:
    """The ``steps``, one after the other, with their progress shown as `stage` does."""
    with stage(name, total, show=show) as progress:
        for step in steps:
            yield step
            progress.advance()


def _tell(progress: Stage, console: Console, ended: threading.Event) -> None:
    while not ended.wait(EVERY_S):
        console.print(progress.line(), soft_wrap=True, markup=False, highlight=False)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
