"""What demonstrators have in common: actions are disturbed, executed and recorded."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.episode import Episode

_NOISE_PULL = 0.25  # of the Ornstein-Uhlenbeck noise towards zero, per step


class Recorder:
    """Steps an environment from a reset on, and keeps its states, actions and rewards.

    Args:
        env: With actions (A,) in [-1, 1].
        rng: Of the noise.
        noise: Standard deviation of the Ornstein-Uhlenbeck noise added to the actions. The recorded ones hold it.
        reset: Arguments of ``env.reset``.
    """

    def __init__(self, env: gym.Env, rng: np.random.Generator, noise: float, **reset: Any) -> None:
        self._env, self._rng = env, rng
        assert env.action_space.shape is not None
        self._disturbance = np.zeros(env.action_space.shape)
        # Of the steps, so that the noise itself has `noise`.
        self._spread = noise * np.sqrt(_NOISE_PULL * (2 - _NOISE_PULL))
        self.states: list[NDArray[np.floating]] = [env.reset(**reset)[0]]
        self.actions: list[NDArray[np.float64]] = []
        self.rewards: list[float] = []

    def step(self, wanted: NDArray[np.float64]) -> None:
        """Execute ``wanted`` (A,) with noise, clipped to [-1, 1]."""
        self._disturbance += self._spread * self._rng.standard_normal(len(wanted)) - _NOISE_PULL * self._disturbance
        action = np.clip(wanted + self._disturbance, -1, 1)
        observation, reward, *_ = self._env.step(action)
        self.states.append(observation)
        self.actions.append(action)
        self.rewards.append(float(reward))

    def episode(self, **facts: Any) -> Episode:
        """What was recorded, and the episode's other fields."""
        actions = np.array(self.actions).reshape(-1, *self._disturbance.shape)
        return Episode(states=np.array(self.states), actions=actions, rewards=np.array(self.rewards), **facts)
