"""Environments. Importing this package registers them with Gymnasium and with Ray Tune."""

from functools import partial
from typing import Any

import gymnasium as gym
from ray.tune.registry import register_env

__all__ = ["ENVIRONMENTS", "register_environments"]

ENVIRONMENTS = {
    "rllib_spirl/Kitchen-v0": "rllib_spirl.envs.kitchen:KitchenEnv",
    "rllib_spirl/BlockStacking-v0": "rllib_spirl.envs.block_stacking:BlockStackingEnv",
}


def _make(name: str, config: dict[str, Any]) -> gym.Env:
    return gym.make(name, disable_env_checker=True, **config)


def register_environments() -> None:
    """Register our environments by name. Calling it again does nothing.

    Ray Tune's registry reaches the workers of a cluster, so that RLlib's built-in algorithms find them there too.
    """
    for name, entry_point in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(name, entry_point=entry_point)
            register_env(name, partial(_make, name))


register_environments()
