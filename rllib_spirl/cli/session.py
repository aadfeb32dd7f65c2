"""Connect to a Ray cluster or start a local one, quietly."""

import logging
import os
import warnings
from typing import Any

from rllib_spirl.errors import UserError
from rllib_spirl.memory import return_freed_memory

_started_here = False
# Ray keeps 3 KB of each finished task for its state API, by default of 100,000 of them.
_FINISHED_TASKS = "task_events_max_num_task_in_gcs", 10_000


class _Echo(logging.Filter):
    """Drops Tune's own words on failed and interrupted trials: the summary says the same in one line with the path."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Trials did not complete", "Trial task failed", "Stop signal received"))


def quiet(verbosity: int) -> None:
    """Without -v: no deprecation chatter of Ray and gymnasium on the driver; errors stay. Call before importing Ray."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; asks to be set
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is handled in `training`, with a checkpoint
    if verbosity > 0:
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault(
        "RAY_AIR_NEW_OUTPUT", "0"
    )  # Tune's new reporter prints boxes at verbosity 0, its old one nothing
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)
    for name in ("ray", "ray.tune", "ray.rllib", "gymnasium"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).addFilter(_Echo())


def start(address: str | None, num_cpus: int | None, num_gpus: int | None, verbosity: int) -> bool:
    """Connect where an address (or ``RAY_ADDRESS``, which ``ray job submit`` sets) is given, else start Ray here.

    Returns:
        True if Ray was started on this machine for this command.

    Raises:
        UserError: no cluster at the address, a local Ray that does not come up, or options that contradict each other.
    """
    global _started_here
    import ray

    from rllib_spirl.ray_start import cluster_named, connect, start_local

    return_freed_memory()
    if ray.is_initialized():
        return False
    address = address or cluster_named()
    level = logging.WARNING if verbosity else logging.ERROR
    arguments: dict[str, Any] = {"log_to_driver": verbosity > 0, "logging_level": level}
    if address in (None, "local"):
        name, number = _FINISHED_TASKS
        arguments |= {"num_cpus": num_cpus, "num_gpus": num_gpus}
        start_local(_system_config={} if f"RAY_{name}" in os.environ else {name: number}, **arguments)
        _started_here = True
        quiet(verbosity)  # ray.init resets its loggers
        return True
    if num_cpus is not None or num_gpus is not None:
        raise UserError(
            "--ray-num-cpus and --ray-num-gpus are for a local Ray; the cluster at --ray-address has its own"
        )
    connect(address, "--ray-address", **arguments)
    _started_here = True
    quiet(verbosity)
    return False


def stop() -> None:
    """Leave the cluster, or end the local one; a Ray that was there before ``start`` stays."""
    global _started_here
    if _started_here:
        import ray

        ray.shutdown()
        _started_here = False
