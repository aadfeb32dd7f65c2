"""Meta-World's own scripted experts, with noise."""

import functools
from dataclasses import dataclass

import numpy as np

from rllib_spirl.data.episode import Episode
from rllib_spirl.demos.recorder import Recorder
from rllib_spirl.envs.metaworld import MetaWorldEnv
from rllib_spirl.extras import optional

# Part of every recipe's hash: raise it when the same seed gives another demonstration.
VERSION = 1


@dataclass(frozen=True)
class Demonstration:
    """One episode, and whether the task succeeded in it."""

    episode: Episode  # states (T+1, 39) float32, actions (T, 4) float32, sparse rewards
    success: bool


def demonstrate(task: str, steps: int, seed: int, noise: float) -> Demonstration:
    """Let the expert try a task, until it succeeds. The same arguments give the same result.

    Args:
        task: A name such as drawer-open-v3.
        steps: At most.
        seed: Of the positions of objects and goal, and of the noise.
        noise: Standard deviation of the Ornstein-Uhlenbeck noise added to the actions. The recorded ones hold it.
    """
    expert = optional("metaworld.policies", "metaworld").ENV_POLICY_MAP[task]()
    recorder = Recorder(_environment(task), np.random.default_rng([seed, 1]), noise, seed=seed)
    success = False
    while not success and len(recorder.actions) < steps:
        recorder.step(np.clip(expert.get_action(recorder.states[-1]), -1, 1))
        success = recorder.rewards[-1] > 0
    return Demonstration(recorder.episode(terminated=success, truncated=not success, task=task), success)


@functools.cache
def _environment(task: str) -> MetaWorldEnv:
    """Building one takes a while: each process keeps its own."""
    return MetaWorldEnv(task, reward="sparse")
