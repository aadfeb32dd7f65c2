"""Environments. Importing this package registers them with Gymnasium and with Ray Tune."""

import re
from functools import partial
from typing import Any

import gymnasium as gym
from ray.tune.registry import register_env

from rllib_spirl.envs.arguments import check_whole
from rllib_spirl.envs.outside import FAMILIES, METAWORLD, METAWORLD_LIMIT, OGBENCH
from rllib_spirl.errors import UserError

__all__ = ["BLOCK_STACKING", "ENVIRONMENTS", "KITCHEN", "MAZE", "TRIALS", "our_name", "register_environments"]

KITCHEN = "rllib_spirl/Kitchen-v0"
BLOCK_STACKING = "rllib_spirl/BlockStacking-v0"
MAZE = "rllib_spirl/Maze-v0"
TRIALS = "rllib_spirl/Trials-v0"
ENVIRONMENTS = {
    KITCHEN: "rllib_spirl.envs.kitchen:KitchenEnv",
    BLOCK_STACKING: "rllib_spirl.envs.block_stacking:BlockStackingEnv",
    MAZE: "rllib_spirl.envs.maze:MazeEnv",
    "rllib_spirl/PointTasks-v0": "rllib_spirl.envs.point_tasks:PointTasksEnv",
    "rllib_spirl/HalfCheetahVelocity-v0": "rllib_spirl.envs.half_cheetah_tasks:HalfCheetahVelocityEnv",
    TRIALS: "rllib_spirl.envs.trials:TrialEnv",
}

# The kitchens of gymnasium-robotics, D4RL and Minari, without their versions: their states are those of ours.
_KITCHENS = (
    "frankakitchen",
    *(f"kitchen-{kind}" for kind in ("complete", "partial", "mixed")),
    *(f"d4rl/kitchen/{kind}" for kind in ("complete", "partial", "mixed")),
)


def our_name(name: str) -> str | None:
    """Our environment of the same states as one that others have named, such as ``kitchen-mixed-v0``; None for none."""
    return KITCHEN if re.sub(r"-v\d+$", "", name.lower()) in _KITCHENS else None


def _make(name: str, config: dict[str, Any]) -> gym.Env:
    limit = config.get("max_episode_steps")  # None for the environment's own
    if limit is not None:
        if name == TRIALS:
            raise UserError(
                f"{name}: max_episode_steps is one of the episodes that make a trial: set it in the inner env_config."
            )
        check_whole(name, max_episode_steps=limit)
        limit = int(limit)  # of NumPy, say
    made = gym.make(name, disable_env_checker=True, **{**config, "max_episode_steps": limit})
    if limit is not None and hasattr(made.unwrapped, "max_episode_steps"):
        # Gymnasium keeps it from the environment for a wrapper, which can make episodes shorter alone.
        made.unwrapped.max_episode_steps = limit
    return made


def register_environments() -> None:
    """Register our environments, and the tasks of other benchmarks, by name. Calling it again does nothing.

    The packages of the benchmarks need not be there: they are imported when an environment is made.
    """
    for name, entry_point in ENVIRONMENTS.items():
        _register(name, entry_point)
    for task, family in OGBENCH.items():
        limit = FAMILIES[family].limit
        _register(f"ogbench/{task}", "rllib_spirl.envs.ogbench:OGBenchEnv", limit, task=task)
    for task in METAWORLD:
        _register(f"metaworld/{task}", "rllib_spirl.envs.metaworld:MetaWorldEnv", METAWORLD_LIMIT, task=task)


def _register(name: str, entry_point: str, limit: int | None = None, **settings: Any) -> None:
    """Ray Tune's registry reaches the workers of a cluster, so that RLlib's built-in algorithms find the name too."""
    if name not in gym.registry:
        gym.register(name, entry_point=entry_point, max_episode_steps=limit, kwargs=settings)
        register_env(name, partial(_make, name))


register_environments()
