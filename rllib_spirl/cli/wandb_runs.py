"""Results go to Weights & Biases through Ray's own callback, which needs two additions to leave whole runs behind."""

import os
from pathlib import Path
from typing import Any

import ray
import wandb
from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor

from rllib_spirl.cli.begun_trials import BegunTrials
from rllib_spirl.errors import one_line
from rllib_spirl.progress import tell


class _WholeRun(_WandbLoggingActor):
    """Ray's process that logs a trial.

    Ray ends it, and with it the service of W&B that it has started, as soon as it has called ``wandb.finish``. But that
    call only asks the service to write what it holds; without a connection the run's file would stay empty.
    """

    def run(self) -> None:
        """Log until the trial ends, then wait until everything is written or sent."""
        try:
            super().run()
        finally:
            wandb.teardown()


class WeightsAndBiases(BegunTrials, WandbLoggerCallback):
    """Ray's callback. Its files lie where W&B's always do: in ``wandb``, below ``$WANDB_DIR`` or the working directory.

    Ray's own choice is a folder of its session, which is copied to the results before a run is whole.

    Args:
        project: A project of Weights & Biases.
    """

    _logger_actor_cls = _WholeRun

    def __init__(self, project: str) -> None:
        super().__init__(project=project, dir=os.environ.get("WANDB_DIR") or str(Path.cwd()))

    def _cleanup_logging_actor(self, trial: Any) -> None:
        """Say why a trial is not logged, which Ray does not."""
        try:
            ray.get(self._trial_logging_futures[trial], timeout=0)
        except Exception as error:  # anything that W&B may raise, or that it takes longer than Ray waits
            tell(f"warning: Weights & Biases has not all results of {trial}: {one_line(error)}")
        super()._cleanup_logging_actor(trial)
