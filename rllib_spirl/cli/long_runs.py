"""What lets a run of days stay as small as it was after its first minutes: Tune keeps too much."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.tune import Callback
from ray.tune.execution import tune_controller
from ray.tune.utils import serialization


class ConfigOnce(Callback):
    """Leaves the config out of results where it is that of the trial's result before.

    It is four fifths of a result and changes only when a scheduler wants it to; Tune copies the growing file of results
    to the storage path again and again, and reads it at the end.
    """

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A restarted trial may repeat iterations, and readers drop the results that had them first."""
        self._last.pop(trial.trial_id, None)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Tune calls its loggers afterwards, with the same mapping."""
        config = result.get("config")
        if config is not None and config == self._last.get(trial.trial_id):
            del result["config"]
        else:
            self._last[trial.trial_id] = config


class _ForgetsResults(RayActorManager):
    """Tune's own keeps the result of every training iteration, 13 KB, until the trial ends."""

    def next(self, timeout: float | None = None) -> bool:
        happened = super().next(timeout)
        awaited = self._actor_task_events.get_futures()
        for futures in self._tracked_actors_to_task_futures.values():
            futures.intersection_update(awaited)
        return happened


@contextmanager
def forgetful_tune() -> Iterator[None]:
    """While this is open, Tune lets go of what it is done with.

    That is results of training iterations; and texts. Whenever it saves its state, it asks whether it has said before
    that an object is none for JSON, and the question, with all the object's numbers in it, is kept for ever.
    """
    before = tune_controller.RayActorManager, serialization.log_once
    tune_controller.RayActorManager, serialization.log_once = _ForgetsResults, lambda key: False
    try:
        yield
    finally:
        tune_controller.RayActorManager, serialization.log_once = before
