"""Trials of RL² (Duan et al. 2016, Wang et al. 2016): several episodes of one task are one episode to the learner."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, flatdim
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_flags, check_whole
from rllib_spirl.envs.skill_env import make_env
from rllib_spirl.envs.tasks import Task, flat_boxes, settable
from rllib_spirl.errors import UserError

EPISODES = 2
"""Of a trial, unless told otherwise."""


class TrialEnv(gym.Env[NDArray[np.float32], NDArray[np.floating]]):
    """``rllib_spirl/Trials-v0``: an episode of it is a trial, which is several episodes of one task of a family.

    A recurrent policy keeps its hidden state through a trial, so it can remember what earlier episodes have told of
    the task; with a new trial comes a new task, of ``tasks``, and a new hidden state.

    Observation (S + A + 2,): the state; the action before, clipped to its bounds; the reward for it; and 1 where the
    state is the first of an episode after another, which is what the action before has ended. At the start of a trial
    these are 0. Action and reward: the inner environment's.
    Never terminated. Truncated: when the last episode of the trial ends.
    Info: the inner environment's; at the end of a trial ``measures`` has ``episode_1``, ``episode_2``, …: the return of
    each of its episodes.

    Args:
        env, env_config: The family of tasks, see `rllib_spirl.envs.tasks`, with flat Box observations and actions.
        tasks: What trials are of; None for tasks of the environment's own distribution.
        episodes: How many make a trial.
        in_turn: Whether ``tasks`` come one after the other, for evaluations in each of them, and are not drawn.

    Raises:
        UserError: If the environment is no such family or has no such task, or on bad arguments.
    """

    def __init__(
        self,
        env: str,
        env_config: dict[str, Any] | None = None,
        tasks: Sequence[Task] | None = None,
        episodes: int = EPISODES,
        in_turn: bool = False,
    ) -> None:
        check_flags("Trials", in_turn=in_turn)
        if in_turn and tasks is None:
            raise UserError("Trials: in_turn is of tasks that are named; name some, or leave it out.")
        check_whole("Trials", episodes=episodes)  # else a trial would not end
        if tasks is not None and not tasks:
            raise UserError("Trials: tasks is empty; name some, or leave it out for the environment's own.")
        self.env = make_env(env, dict(env_config or {}))
        self.family = settable(self.env)
        state, action = flat_boxes(f"Trials of {env}", self.env.observation_space, self.env.action_space)
        for task in tasks or ():
            self.family.set_task(task)
        self.tasks, self.episodes = tasks, episodes
        self._in_turn, self._trials = in_turn, 0
        size = flatdim(state) + flatdim(action) + 2
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = self._actions = action
        self._returns: list[float] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a trial of another task. With ``options={"task": task}`` it is this one."""
        super().reset(seed=seed)
        if options is not None and "task" in options:
            task = options["task"]
        elif self.tasks is None:
            if seed is not None:
                self.env.reset(seed=seed)  # so that the seed decides the task too
            (task,) = self.family.sample_tasks(1)
        elif self._in_turn:
            task = self.tasks[self._trials % len(self.tasks)]
        else:
            task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        self._trials += 1
        self.family.set_task(task)
        state, info = self.env.reset(seed=seed)
        self._returns = [0.0]
        return self._observe(state, np.zeros_like(self._actions.low), 0.0, False), info

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        action = np.clip(action, self._actions.low, self._actions.high)
        state, reward, terminated, truncated, info = self.env.step(action)
        self._returns[-1] += float(reward)
        ended = terminated or truncated
        last = ended and len(self._returns) == self.episodes
        if last:
            info = {**info, "measures": {f"episode_{i}": value for i, value in enumerate(self._returns, 1)}}
        elif ended:
            state, _ = self.env.reset()
            self._returns.append(0.0)
        return self._observe(state, action, float(reward), ended), float(reward), False, last, info

    def _observe(
        self, state: NDArray[np.floating], action: NDArray[np.floating], reward: float, ended: bool
    ) -> NDArray[np.float32]:
        return np.concatenate([state, action, [reward, ended]]).astype(np.float32)

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()
