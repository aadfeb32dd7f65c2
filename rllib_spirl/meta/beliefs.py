"""Beliefs about a task as embeddings e in NumPy, and episodes with one e throughout."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.algorithm.replay_buffer import Batch, successive
from rllib_spirl.envs.rollout import EpisodeResult, run_episode
from rllib_spirl.meta.task_rl_module import TaskRLModule

Array = NDArray[np.float32]
Act = Callable[[NDArray[np.floating], Sequence[float]], Array]
"""The state of an environment of skills and the episode's rewards so far to the next skill."""


@torch.no_grad()
def draw(module: TaskRLModule, context: Batch | None, rng: np.random.Generator) -> Array:
    """e ~ q(e | context), (E,); without context e ~ N(0, I)."""
    noise = rng.standard_normal(module.context_dim, np.float32)
    if context is None or not module.context_dim:
        return noise
    belief = module.belief(context)
    return belief.mean.numpy() + belief.stddev.numpy() * noise


@torch.no_grad()
def most_likely(module: TaskRLModule, context: Batch) -> Array:
    """The mean of q(e | context), (E,)."""
    return module.belief(context).mean.numpy() if module.context_dim else np.zeros(0, np.float32)


def together(transitions: Sequence[Batch]) -> Batch | None:
    """Several episodes' transitions as one context; None if there are none."""
    if not transitions:
        return None
    return {name: torch.cat([each[name] for each in transitions]) for name in transitions[0]}


def by_belief(policy: ActingPolicy, e: Array, rng: np.random.Generator, *, explore: bool) -> Act:
    """How the policy acts with the belief e throughout an episode.

    Args:
        policy: The policy.
        e: The embedding, (E,).
        rng: Of the skills.
        explore: Whether they are drawn from the policy; else they are the best, by value, of some that are drawn near
            its mean.
    """

    def act(state: NDArray[np.floating], rewards: Sequence[float]) -> Array:
        observed = np.concatenate([state, e])
        return policy.sample(observed, rng) if explore else policy.best(observed, rng)

    return act


def recorded(env: gym.Env, act: Act, seed: int) -> tuple[EpisodeResult, Batch]:
    """An episode in an environment of skills, reset with ``seed``: what it came to, and its transitions."""
    recorder = _Recorder(env, act)
    result = run_episode(recorder, recorder.act, seed)
    return result, recorder.transitions()


class _Recorder(gym.Wrapper):
    """Keeps the transitions of an episode."""

    def __init__(self, env: gym.Env, act: Act) -> None:
        super().__init__(env)
        self._act = act
        self._states: list[Array] = []
        self._z: list[Array] = []
        self._rewards: list[float] = []
        self._terminated = False

    def act(self, state: NDArray[np.floating]) -> Array:
        self._z.append(np.array(self._act(state, self._rewards), np.float32))
        return self._z[-1]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        self._states.append(np.array(observation, np.float32))
        return observation, info

    def step(self, action: Any) -> Any:
        observation, reward, self._terminated, truncated, info = self.env.step(action)
        self._states.append(np.array(observation, np.float32))  # the environment may go on writing into its own
        self._rewards.append(float(reward))
        return observation, reward, self._terminated, truncated, info

    def transitions(self) -> Batch:
        states = torch.from_numpy(np.stack(self._states))
        z = torch.from_numpy(np.stack(self._z))
        return successive(states, z, torch.tensor(self._rewards), self._terminated)
