"""What lets a run of days stay as small as it was after its first minutes: Tune and the allocators keep too much."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.tune import Callback
from ray.tune.execution import tune_controller


class ConfigOnce(Callback):
    """Leaves the config out of every logged result but a trial's first.

    It is four fifths of a result, never changes, and is in params.json; Tune copies the growing file to the storage
    path again and again, and reads it at the end.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Tune calls its loggers afterwards, with the same mapping."""
        if trial.trial_id in self._seen:
            result.pop("config", None)
        self._seen.add(trial.trial_id)


class _ForgetsResults(RayActorManager):
    """Tune's own keeps the result of every training iteration, 13 KB, until the trial ends."""

    def next(self, timeout: float | None = None) -> bool:
        happened = super().next(timeout)
        awaited = self._actor_task_events.get_futures()
        for futures in self._tracked_actors_to_task_futures.values():
            futures.intersection_update(awaited)
        return happened


@contextmanager
def forget_results() -> Iterator[None]:
    """While this is open, Tune lets go of the results of training iterations once it has handled them."""
    before = tune_controller.RayActorManager
    tune_controller.RayActorManager = _ForgetsResults
    try:
        yield
    finally:
        tune_controller.RayActorManager = before
