"""Ray for what needs it and was called without it."""

import logging
import os

import ray


def ensure_ray() -> None:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or else start Ray on this machine, unless this process has it.

    Another Ray that happens to run here is left alone: it may belong to someone else, and end at any time.
    """
    if not ray.is_initialized():
        address = None if os.environ.get("RAY_ADDRESS") else "local"
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
