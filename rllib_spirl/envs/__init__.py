"""Environments. Importing this package registers them with Gymnasium."""

import gymnasium as gym

__all__ = ["register_environments"]


def register_environments() -> None:
    """Register ``rllib_spirl/Kitchen-v0`` with Gymnasium. Calling it again does nothing."""
    if "rllib_spirl/Kitchen-v0" not in gym.registry:
        gym.register("rllib_spirl/Kitchen-v0", entry_point="rllib_spirl.envs.kitchen:KitchenEnv")


register_environments()
