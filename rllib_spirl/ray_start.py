"""Ray on this machine."""

import logging
import os
from typing import Any

import ray

from rllib_spirl.errors import UserError
from rllib_spirl.progress import tell


def ensure_ray() -> None:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or else start Ray on this machine, unless this process has it.

    Another Ray that happens to run here is left alone: it may belong to someone else, and end at any time.
    """
    if ray.is_initialized():
        return
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS") in (None, "", "local"):
        start_local(**arguments)
    else:
        ray.init(**arguments)


def start_local(**arguments: Any) -> None:
    """Start Ray on this machine, without its dashboard, with these arguments of ``ray.init``.

    Ray gives its node 30 seconds to come up, which a busy machine may exceed, so it is tried twice.

    Raises:
        UserError: If Ray does not come up.
    """
    if _comes_up(**arguments):
        return
    tell("Ray did not come up within 30 seconds; trying once more")
    if not _comes_up(**arguments):
        raise UserError("Ray did not come up within 30 seconds, twice: is this machine busy with more?")


def _comes_up(**arguments: Any) -> bool:
    """Start Ray; whether its node came up in time."""
    try:
        ray.init(address="local", include_dashboard=False, **arguments)
    except Exception as error:  # Ray has no class of its own for it
        if "timed out during startup" not in str(error):
            raise
        return False
    return True
