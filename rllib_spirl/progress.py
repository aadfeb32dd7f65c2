"""How far a stage of work is: a bar on a terminal, elsewhere a line at least every quarter of a minute.

A stage may be worked on anywhere in a Ray job. A Ray worker writes its progress into the cluster's store of keys and
values, at which the driver looks while it waits in `watch`.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import ray
from ray.experimental import internal_kv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 15.0
_POST_EVERY_S = 0.5
_FORGOTTEN_S = 180.0  # a worker that was killed posts no end
_STORE = "rllib_spirl_progress"
T = TypeVar("T")


@dataclass
class Stage:
    """The progress of one stage. Any thread may call its methods."""

    name: str
    """What is done, e.g. "recording demonstrations"."""
    total: int | None = None
    """How many steps that takes, or None where it is not known."""
    done: int = 0
    detail: str = ""
    """What is being done just now; it is shown behind the name."""
    begun: float = 0.0
    """When, in seconds since 1970; 0 for now."""
    first: int | None = None
    """How many steps were done before; None for as many as are done now."""

    def __post_init__(self) -> None:
        self.begun = self.begun or time.time()
        self.first = self.done if self.first is None else self.first

    def advance(self, steps: int = 1) -> None:
        self.set(self.done + steps)

    def set(self, done: int, detail: str | None = None) -> None:
        """Say how many steps are done, and optionally what comes next."""
        self.done = done
        self.detail = self.detail if detail is None else detail
        _post()

    @property
    def title(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name

    def line(self) -> str:
        """The progress in words: name, steps done, time since the beginning and, where it can be told, time left."""
        elapsed = time.time() - self.begun
        steps = f": {self.done:,}" if self.total is None else f": {self.done:,} of {self.total:,}"
        parts = [self.title + (steps if self.total != 1 and (self.total or self.done) else "")]
        parts.append(f"{_clock(elapsed)} so far")
        new = self.done - (self.first or 0)
        if self.total is not None and new > 0:
            parts.append(f"{_clock(elapsed * max(0, self.total - self.done) / new)} left")
        return ", ".join(parts)


@contextmanager
def stage(
    name: str,
    total: int | None = None,
    *,
    done: int = 0,
    into: object = None,
    show: bool = True,
    watched_only: bool = False,
) -> Iterator[Stage]:
    """Show a stage's progress on stderr from its beginning to its end; of nested stages, the innermost.

    Args:
        name: What is done, e.g. "recording demonstrations".
        total: How many steps that takes, or None where it is not known.
        done: How many of them were done before.
        into: Where the result will lie. It is told at once, on a line of its own.
        show: Whether to show anything, e.g. in one worker of several.
        watched_only: Whether to show it only where a driver watches: for what may be part of somebody's own program.
    """
    current = Stage(name, total, done)
    if _silent or not show or (watched_only and not _in_worker()):
        yield current
        return
    if into is not None:
        tell(f"{name}, into {into}")
    _stages.append(current)
    try:
        if len(_stages) > 1 or _in_worker():
            _post(at_once=True)
            yield current
        else:
            with _shown(lambda: {0: _stages[-1]} if _stages else {}):
                yield current
    finally:
        _stages.remove(current)
        _post(at_once=True)


def track(steps: Iterable[T], name: str, *, total: int | None = None, watched_only: bool = False) -> Iterator[T]:
    """The ``steps``, one after the other, with their progress shown as `stage` does."""
    with stage(name, total, watched_only=watched_only) as progress:
        for step in steps:
            yield step
            progress.advance()


@contextmanager
def watch(waiting: str) -> Iterator[None]:
    """Show, in a driver, the stages that the workers of its Ray job are in.

    Args:
        waiting: What is going on where no worker tells of a stage, e.g. "training"; then that is shown.
    """
    if _silent:
        yield
        return
    idle = Stage(waiting)

    def stages() -> Mapping[Hashable, Stage]:
        found = _read()
        if found:
            return found
        idle.begun = max(idle.begun, _heard)
        return {"": idle}

    with _shown(stages):
        yield


@contextmanager
def silent() -> Iterator[None]:
    """Within the block nothing is told: for what is part of somebody's own program."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def tell(line: str) -> None:
    """Print a line on stderr."""
    global _told
    if _silent:
        return
    Console(stderr=True).print(line, soft_wrap=True, markup=False, highlight=False)
    _told = time.time()


def heard() -> None:
    """Note that there was news, and that it was printed: the next line about what goes on can wait."""
    global _told, _heard
    _told = _heard = time.time()


_stages: list[Stage] = []  # which this process is in, the innermost last
_told = _heard = _posted = 0.0  # when
_silent = False


def _in_worker() -> bool:
    return ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def _post(*, at_once: bool = False) -> None:
    """Tell, in a worker, which stage it is in and how far."""
    global _posted
    now = time.time()
    if (not at_once and now - _posted < _POST_EVERY_S) or not _in_worker():
        return
    _posted = now
    context = ray.get_runtime_context()
    value = json.dumps([now, asdict(_stages[-1]) if _stages else None]).encode()
    with suppress(Exception):  # nothing that is told is worth an error
        internal_kv._internal_kv_put(f"{context.get_job_id()}/{context.get_worker_id()}", value, namespace=_STORE)


def _read() -> dict[Hashable, Stage]:
    """The stages that the workers of this driver's job are in."""
    stages: dict[Hashable, Stage] = {}
    for key in internal_kv._internal_kv_list(f"{ray.get_runtime_context().get_job_id()}/", namespace=_STORE):
        posted, value = json.loads(internal_kv._internal_kv_get(key, namespace=_STORE) or "[0, null]")
        if value is not None and time.time() - posted < _FORGOTTEN_S:
            stages[key] = Stage(**value)
    return stages


@contextmanager
def _shown(stages: Callable[[], Mapping[Hashable, Stage]]) -> Iterator[None]:
    """Show the stages there are, as long as the block lasts."""
    console = Console(stderr=True)
    # Bars redirect what is printed meanwhile to their console, which must not happen to what goes into a file.
    show = _bars if console.is_terminal and sys.stdout.isatty() else _lines
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(stages, ended, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lines(stages: Callable[[], Mapping[Hashable, Stage]], ended: threading.Event, _: Console) -> None:
    begun = time.time()
    while not ended.wait(min(0.5, EVERY_S / 4)):
        if time.time() - max(begun, _told) >= EVERY_S:
            with suppress(Exception):  # Ray may be gone
                for current in stages().values():
                    tell(current.line())


def _bars(stages: Callable[[], Mapping[Hashable, Stage]], ended: threading.Event, console: Console) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bars:
        tasks: dict[Any, Any] = {}
        while not ended.wait(0.2):
            with suppress(Exception):  # Ray may be gone
                now = {(place, current.begun): current for place, current in stages().items()}
                for key in tasks.keys() - now.keys():
                    bars.remove_task(tasks.pop(key))
                for key, current in now.items():
                    if key not in tasks:
                        tasks[key] = bars.add_task(current.title, total=current.total, completed=current.done)
                    bars.update(tasks[key], completed=current.done, description=current.title)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
