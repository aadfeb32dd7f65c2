"""Trackers of experiments beside TensorBoard, through Ray's own callbacks: MLflow."""

from importlib.util import find_spec

from ray.tune import Callback

from rllib_spirl.errors import UserError, one_line


def callbacks(mlflow: str | None) -> list[Callback]:
    """Tune's callbacks that send every result to a tracker.

    Where to and as whom is what the tracker's own environment variables say, such as ``MLFLOW_TRACKING_URI``.

    Args:
        mlflow: An experiment of MLflow; None for no such tracking.

    Raises:
        UserError: The tracker is not installed, or does not know the user.
    """
    made: list[Callback] = []
    if mlflow is not None:
        _installed("mlflow", "--mlflow")
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        made.append(MLflowLoggerCallback(experiment_name=mlflow))
    for callback in made:
        try:
            callback.setup()  # Tune does it again, but only after skills are trained
        except Exception as error:  # anything that a tracker's client may raise
            raise UserError(f"{type(callback).__name__.removesuffix('LoggerCallback')}: {one_line(error)}") from None
    return made


def _installed(package: str, option: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{option} needs {package}: pip install 'rllib_spirl[{package}]'")
