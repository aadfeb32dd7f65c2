"""What Ray's callbacks for trackers lack: a trial may end before it has begun, when its process does not start."""

from typing import Any

from ray.tune.logger import LoggerCallback


class BegunTrials(LoggerCallback):
    """Only a trial that has begun is ended.

    Ray's callbacks look a trial up that they were never told of, and their ``KeyError`` would hide why it has failed.
    """

    _begun: frozenset[Any] = frozenset()

    def log_trial_start(self, trial: Any) -> None:
        super().log_trial_start(trial)
        self._begun |= {trial}

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        if trial in self._begun:
            self._begun -= {trial}
            super().log_trial_end(trial, failed)
