"""Connect to a Ray cluster or start a local one, quietly."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rllib_spirl.errors import UserError
from rllib_spirl.memory import return_freed_memory

# Ray keeps 3 KB of each finished task for its state API, by default of 100,000 of them.
_FINISHED_TASKS = "task_events_max_num_task_in_gcs", 10_000


class _Echo(logging.Filter):
    """Drops Tune's own words on failed and interrupted trials: the summary says the same in one line with the path."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Trials did not complete", "Trial task failed", "Stop signal received"))


def quiet(verbosity: int) -> None:
    """Without -v: no deprecation chatter of Ray and gymnasium on the driver; errors stay. Call before importing Ray."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; asks to be set
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is handled in `interrupt`, with a checkpoint
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


@contextmanager
def ray_session(
    address: str | None = None, num_cpus: int | None = None, num_gpus: int | None = None, verbosity: int = 0
) -> Iterator[bool]:
    """Ray as long as a command runs: of a cluster where an address is given, else started here, see `ensure_ray`.

    Afterwards it is left or ended, but for a Ray that was there before. Yields whether it was started here.

    Raises:
        UserError: As `ensure_ray`, or if options contradict each other.
    """
    import ray

    from rllib_spirl.ray_start import cluster_named, ensure_ray

    return_freed_memory()
    if (cluster := cluster_named(address)) and (num_cpus, num_gpus) != (None, None):
        raise UserError(
            f"--ray-num-cpus and --ray-num-gpus are for a local Ray; the cluster of {cluster[1]} has its own"
        )
    there = ray.is_initialized()
    name, number = _FINISHED_TASKS
    local = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "_system_config": {} if f"RAY_{name}" in os.environ else {name: number},
    }
    level = logging.WARNING if verbosity else logging.ERROR
    started = ensure_ray(address, local=local, log_to_driver=verbosity > 0, logging_level=level)
    quiet(verbosity)  # ray.init resets its loggers
    try:
        yield started
    finally:
        if not there:
            ray.shutdown()
