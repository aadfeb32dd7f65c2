"""Ray on this machine."""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import ray

from rllib_spirl.errors import UserError
from rllib_spirl.progress import stage, tell

_started_here = False


def ensure_ray(address: str | None = None, *, local: Mapping[str, Any] | None = None, **arguments: Any) -> bool:
    """Connect to a cluster, or else start Ray on this machine, unless this process has it.

    Another Ray that happens to run here is left alone: it may belong to someone else, and end at any time.

    Args:
        address: Of the cluster, as ``--ray-address`` names it; by default what ``RAY_ADDRESS`` names.
        local: Arguments of ``ray.init`` where Ray is started here.
        arguments: Its arguments in both cases.

    Returns:
        Whether it was started here.

    Raises:
        UserError: If there is no cluster at the address, or Ray does not come up here.
    """
    if ray.is_initialized():
        return False
    arguments = {"log_to_driver": False, "logging_level": logging.ERROR} | arguments
    if (cluster := cluster_named(address)) is None:
        start_local(**(local or {}), **arguments)
        return True
    connect(*cluster, **arguments)
    return False


def cluster_named(address: str | None = None) -> tuple[str, str] | None:
    """The address of a cluster and the option that names it: ``--ray-address``, if it is given, else ``RAY_ADDRESS``.

    None where that is this machine.
    """
    place, option = (address, "--ray-address") if address else (os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS")
    return (place, option) if place and place != "local" else None


def here_only() -> bool:
    """Whether the Ray of this process was started by it, on this machine alone: what does not fit never will."""
    return _started_here and ray.is_initialized()


def connect(address: str, option: str, **arguments: Any) -> None:
    """Connect to a cluster, with these arguments of ``ray.init``.

    Args:
        address: ``auto`` or ``HOST:PORT``.
        option: What named it, for an error.

    Raises:
        UserError: If there is none, or it is an address of Ray Client.
    """
    global _started_here
    if address.startswith("ray://"):
        raise UserError(
            f"{option} {address}: Ray Client is not supported; use 'ray job submit -- rllib train file ...', "
            "or run on a machine of the cluster with --ray-address auto"
        )
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, **arguments)
        _started_here = False  # an earlier one of this process was
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{option} {address}: no Ray cluster can be reached there: {reason}") from None


def start_local(**arguments: Any) -> None:
    """Start Ray on this machine, without its dashboard, with these arguments of ``ray.init``.

    Ray gives its node 30 seconds to come up, which a busy machine may exceed, so it is tried twice.

    Raises:
        UserError: If Ray does not come up.
    """
    global _started_here
    if not _comes_up(**arguments):
        tell("Ray did not come up within 30 seconds; trying once more")
        if not _comes_up(**arguments):
            raise UserError("Ray did not come up within 30 seconds, twice: is this machine busy with more?")
    _started_here = True


def _comes_up(**arguments: Any) -> bool:
    """Start Ray; whether its node came up in time."""
    try:
        with stage("starting Ray"):
            ray.init(address="local", include_dashboard=False, **arguments)
    except Exception as error:  # Ray has no class of its own for it
        if "timed out during startup" not in str(error):
            raise
        return False
    return True
