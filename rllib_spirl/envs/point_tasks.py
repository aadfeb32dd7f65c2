"""The point robot of meta-learning: a goal somewhere on a half circle, told by reward alone."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_flags, check_whole
from rllib_spirl.envs.tasks import is_number
from rllib_spirl.errors import UserError

STEP = 0.1
GOAL_RADIUS = 0.2


class PointTasksEnv(gym.Env[NDArray[np.float32], NDArray[np.floating]]):
    """A point in the plane, ``rllib_spirl/PointTasks-v0``: a small family of tasks, as in PEARL's own tests.

    A task is the direction of the goal in degrees, from 0 to 180; the goal lies there at distance 1 from the start. The
    observation does not tell it.

    Observation (2,): the position. Action (2,) in [-1, 1], clipped: displacement in units of 0.1.
    Reward: minus the distance to the goal after the step; or, ``sparse``, 1 minus it within 0.2 of the goal and 0
    elsewhere. Never terminated. Truncated: after ``max_episode_steps``.
    Info: ``measures``, with the ``distance`` to the goal.

    Args:
        task: The task until another one is set.
        sparse: Whether there is reward near the goal only.
        max_episode_steps: Steps until truncation.

    Raises:
        UserError: On bad arguments.
    """

    def __init__(self, task: float = 90.0, sparse: bool = False, max_episode_steps: int = 20) -> None:
        check_whole("PointTasks", max_episode_steps=max_episode_steps)
        check_flags("PointTasks", sparse=sparse)
        self.sparse, self.max_episode_steps = sparse, max_episode_steps
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.set_task(task)
        self._goal = _goal(self._task)
        self._position = np.zeros(2)
        self._steps = 0

    def sample_tasks(self, n_tasks: int) -> list[float]:
        """Directions drawn uniformly, in whole tenths of a degree."""
        return [float(angle) for angle in self.np_random.uniform(0, 180, n_tasks).round(1)]

    def set_task(self, task: float) -> None:
        """Make it the task from the next reset on. Raises UserError unless it is a direction from 0 to 180 degrees."""
        if not is_number(task, 0, 180):
            raise UserError(f"PointTasks: a task is a direction from 0 to 180 degrees, not {task!r}.")
        self._task = float(task)

    def get_task(self) -> float:
        return self._task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._goal = _goal(self._task)
        self._position = np.zeros(2)
        self._steps = 0
        return self._position.astype(np.float32), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._position = self._position + STEP * np.asarray(action, np.float64).clip(-1.0, 1.0)
        self._steps += 1
        truncated = self._steps >= self.max_episode_steps
        observation = self._position.astype(np.float32)
        reward = float(_rewards(observation, self._goal, self.sparse))  # so recorded states tell the rewards
        return observation, reward, False, truncated, self._info()

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        return {
            "task": self._task,
            "goal": self._goal.copy(),
            "position": self._position.copy(),
            "steps": self._steps,
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was."""
        self._task, self._steps = state["task"], state["steps"]
        self._goal, self._position = state["goal"].copy(), state["position"].copy()
        self.np_random.bit_generator.state = state["random"]

    def relabel(self, states: NDArray[np.floating]) -> tuple[NDArray[np.float64], None]:
        """The rewards (T,) that recorded states (T+1, 2) would have earned here; the task is never done before."""
        return _rewards(np.asarray(states[1:], np.float32), _goal(self._task), self.sparse), None

    def _info(self) -> dict[str, Any]:
        return {"measures": {"distance": float(np.linalg.norm(self._position - self._goal))}}


def _goal(task: float) -> NDArray[np.float64]:
    angle = np.deg2rad(task)
    return np.array([np.cos(angle), np.sin(angle)])


def _rewards(positions: NDArray[np.floating], goal: NDArray[np.float64], sparse: bool) -> NDArray[np.float64]:
    """Of positions (..., 2): (...,)."""
    distance = np.linalg.norm(positions - goal, axis=-1)
    return np.where(distance < GOAL_RADIUS, 1 - distance, 0.0) if sparse else -distance
