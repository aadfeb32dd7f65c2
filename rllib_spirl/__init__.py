"""Skill-prior reinforcement learning for Ray RLlib.

Importing it registers "SPiRL", the environments and the recipes of scripted demonstrations.
"""

import os

# Before Arrow is imported: its own allocator keeps what short-lived threads have freed, and Tune copies files in such,
# so that the driver of a run would grow by tens of megabytes an hour.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from ray.tune.registry import register_trainable

from rllib_spirl import demos, envs
from rllib_spirl.algorithm import SPiRL, SPiRLConfig
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.errors import UserError

register_trainable("SPiRL", SPiRL)

__all__ = ["SPiRL", "SPiRLConfig", "SkillEnv", "UserError", "demos", "envs"]
