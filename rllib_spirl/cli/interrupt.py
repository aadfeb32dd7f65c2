"""An end that leaves a checkpoint, by Ctrl-C or a time budget: trials save at their next result, then the run ends."""

import math
import os
import signal
import time
from types import FrameType
from typing import Any

from ray.tune import Callback
from ray.tune.result import SHOULD_CHECKPOINT

from rllib_spirl.cli.progress import console

# Tune ends a run in good order on this signal (its state saved last); its own Ctrl-C handler would skip the checkpoint.
_END_RUN = signal.SIGUSR1


class CheckpointOnInterrupt(Callback):
    """First Ctrl-C (or SIGTERM): checkpoint and end. Second: end with the last checkpoint. Third: at once.

    The end of a time budget is like a first Ctrl-C. (Tune's own budget ends trials for good, without a checkpoint.) Use
    as a context manager around ``Tuner.fit``; afterwards ``interrupted`` tells whether a signal came, and ``ending``
    whether either did.

    Args:
        budget_s: Seconds until then; None for any number.
    """

    def __init__(self, budget_s: float | None = None) -> None:
        self._budget_s = math.inf if budget_s is None else budget_s
        self._deadline = math.inf
        self._signals = 0
        self.ending = self._ended = False
        self._saved: set[str] = set()
        self._handlers: dict[int, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self._signals > 0

    def __getstate__(self) -> dict[str, Any]:
        return CheckpointOnInterrupt(self._budget_s).__dict__  # Tune pickles callbacks; handlers stay here

    def __enter__(self) -> "CheckpointOnInterrupt":
        self._deadline = time.monotonic() + self._budget_s
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if not self.ending:
            self._end("stopping", "Ctrl-C again")
        elif not self._ended:
            self._end_now()
        else:
            raise KeyboardInterrupt

    def _end(self, why: str, at_once: str) -> None:
        self.ending = True
        console().print(
            f"[yellow]{why}: waiting for the running iteration to end, then saving a checkpoint "
            f"({at_once} to end with the last one)[/]",
            soft_wrap=True,
        )

    def _end_now(self) -> None:
        self._ended = True
        os.kill(os.getpid(), _END_RUN)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Ask for a checkpoint of every trial that reports from now on."""
        if self.ending:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note a checkpoint that was written since then."""
        if self.ending:
            self._saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """End the run once nothing is running that has not been saved."""
        if not self.ending and time.monotonic() > self._deadline:
            self._end(f"{self._budget_s:,.10g} seconds (time_budget_s) are over", "Ctrl-C")
        if self.ending and not self._ended and all(t.trial_id in self._saved for t in trials if t.status == "RUNNING"):
            self._end_now()
