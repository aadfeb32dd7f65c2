"""Results go to MLflow through Ray's own callback."""

from ray.air.integrations.mlflow import MLflowLoggerCallback

from rllib_spirl.cli.begun_trials import BegunTrials


class MLflow(BegunTrials, MLflowLoggerCallback):
    """Ray's callback, which also bears a trial that fails before it has begun."""
