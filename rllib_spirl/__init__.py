"""Skill-prior reinforcement learning for Ray RLlib.

Importing it registers "SPiRL", "MetaSPiRL", "MAML", the environments and the recipes of scripted demonstrations. What
a user of the library needs is here; the packages below it are layers, each of which knows only those before it: `data`,
`skills`, `envs`, `demos`, `algorithm`, `meta`, `evaluation`, `cli`.
"""

import os

# Before Arrow is imported: its own allocator keeps what short-lived threads have freed, and Tune copies files in such,
# so that the driver of a run would grow by tens of megabytes an hour.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from ray.tune.registry import register_trainable

from rllib_spirl import demos, envs
from rllib_spirl.algorithm import SPiRL, SPiRLConfig
from rllib_spirl.data import DataSet, Episode, RecordTrajectories, Trajectories, TrajectoryWriter
from rllib_spirl.envs.seeing import PictureWrapper
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.restore import load_policy
from rllib_spirl.meta import MAML, MAMLConfig, MetaSPiRL, MetaSPiRLConfig
from rllib_spirl.skills.pretrain import pretrain
from rllib_spirl.skills.training import PretrainConfig

register_trainable("SPiRL", SPiRL)
register_trainable("MetaSPiRL", MetaSPiRL)
register_trainable("MAML", MAML)

__all__ = [
    "MAML",
    "DataSet",
    "Episode",
    "MAMLConfig",
    "MetaSPiRL",
    "MetaSPiRLConfig",
    "PictureWrapper",
    "PretrainConfig",
    "RecordTrajectories",
    "SPiRL",
    "SPiRLConfig",
    "SkillEnv",
    "Trajectories",
    "TrajectoryWriter",
    "UserError",
    "demos",
    "envs",
    "load_policy",
    "pretrain",
]
