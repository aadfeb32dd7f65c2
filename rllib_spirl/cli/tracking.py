"""Trackers of experiments beside TensorBoard, through Ray's own callbacks: Weights & Biases and MLflow."""

from importlib.util import find_spec

from ray.tune import Callback

from rllib_spirl.errors import UserError, one_line


def callbacks(wandb: str | None, mlflow: str | None) -> list[Callback]:
    """Tune's callbacks that send every result to a tracker.

    Where to and as whom is what the trackers' own environment variables and log-ins say, for instance ``WANDB_MODE``
    and ``MLFLOW_TRACKING_URI``.

    Args:
        wandb: A project of Weights & Biases; None for no such tracking.
        mlflow: An experiment of MLflow; None for no such tracking.

    Raises:
        UserError: The tracker is not installed, or does not know the user.
    """
    made: dict[str, Callback] = {}
    if wandb is not None:
        _installed("wandb", "--wandb")
        from rllib_spirl.cli.wandb_runs import WeightsAndBiases

        made["--wandb"] = WeightsAndBiases(wandb)
    if mlflow is not None:
        _installed("mlflow", "--mlflow")
        from rllib_spirl.cli.mlflow_runs import MLflow

        made["--mlflow"] = MLflow(experiment_name=mlflow)
    for option, callback in made.items():
        try:
            callback.setup()  # Tune does it again, but only after skills are trained
        except Exception as error:  # anything that a tracker's client may raise
            raise UserError(f"{option}: {one_line(error)}") from None
    return list(made.values())


def _installed(package: str, option: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{option} needs {package}: pip install 'rllib_spirl[{package}]'")
