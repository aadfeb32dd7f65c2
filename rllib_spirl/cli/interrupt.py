"""Ctrl-C that leaves a checkpoint: the trials save at their next result, then Tune ends the run and can resume it."""

import os
import signal
from types import FrameType
from typing import Any

from ray.tune import Callback
from ray.tune.result import SHOULD_CHECKPOINT

from rllib_spirl.cli.progress import console

# Tune ends a run in good order on this signal (its state saved last); its own Ctrl-C handler would skip the checkpoint.
_END_RUN = signal.SIGUSR1


class CheckpointOnInterrupt(Callback):
    """First Ctrl-C (or SIGTERM): checkpoint and end. Second: end with the last checkpoint. Third: at once.

    Use as a context manager around ``Tuner.fit``; ``interrupted`` tells afterwards whether it happened.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._saved: set[str] = set()
        self._handlers: dict[int, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self._requests > 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_requests": 0, "_saved": set(), "_handlers": {}}  # Tune pickles callbacks; handlers stay here

    def __enter__(self) -> "CheckpointOnInterrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1
        if self._requests == 1:
            console().print(
                "[yellow]stopping: waiting for the running iteration to end, then saving a checkpoint "
                "(Ctrl-C again to end with the last one)[/]",
                soft_wrap=True,
            )
        elif self._requests == 2:
            os.kill(os.getpid(), _END_RUN)
        else:
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Ask for a checkpoint of every trial that reports after the signal."""
        if self.interrupted:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note a checkpoint that was written after the signal."""
        if self.interrupted:
            self._saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """End the run once nothing is running that has not been saved."""
        if self._requests == 1 and all(t.trial_id in self._saved for t in trials if t.status == "RUNNING"):
            self._requests += 1
            os.kill(os.getpid(), _END_RUN)
