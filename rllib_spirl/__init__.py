"""Skill-prior reinforcement learning for Ray RLlib. Importing it registers "SPiRL" and the environments."""

from ray.tune.registry import register_trainable

from rllib_spirl import envs
from rllib_spirl.algorithm import SPiRL, SPiRLConfig
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.errors import UserError

register_trainable("SPiRL", SPiRL)

__all__ = ["SPiRL", "SPiRLConfig", "SkillEnv", "UserError", "envs"]
