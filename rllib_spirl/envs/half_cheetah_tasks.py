"""HalfCheetah with a velocity to be kept: a family of tasks with physics, as in PEARL's and MAML's own tests."""

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_whole
from rllib_spirl.envs.physics import physics_of, set_physics
from rllib_spirl.envs.tasks import is_number
from rllib_spirl.errors import UserError

FASTEST = 3.0


class HalfCheetahVelocityEnv(HalfCheetahEnv):
    """Gymnasium's HalfCheetah-v5, ``rllib_spirl/HalfCheetahVelocity-v0``, with another reward.

    A task is the velocity that is wanted, from 0 to 3 metres a second. The observation does not tell it.

    Observation (17,) and action (6,): those of HalfCheetah-v5.
    Reward: minus the difference of the velocity over the step from the wanted one, and minus 0.05 ‖action‖². Never
    terminated. Truncated: after ``max_episode_steps``.
    Info: HalfCheetah-v5's, and ``measures`` with the ``velocity``, the mean over the episode so far.

    Args:
        task: The task until another one is set.
        max_episode_steps: Steps until truncation.
        **arguments: Those of HalfCheetah-v5.

    Raises:
        UserError: On bad arguments.
    """

    def __init__(self, task: float = 1.5, max_episode_steps: int = 200, **arguments: Any) -> None:
        check_whole("HalfCheetahVelocity", max_episode_steps=max_episode_steps)
        self.set_task(task)
        self.max_episode_steps = max_episode_steps
        self._wanted = self._task
        self._velocities: list[float] = []
        super().__init__(**{"ctrl_cost_weight": 0.05} | arguments)
        EzPickle.__init__(self, task, max_episode_steps, **arguments)  # a copy is made with these

    def sample_tasks(self, n_tasks: int) -> list[float]:
        """Velocities drawn uniformly, in whole hundredths."""
        return [float(velocity) for velocity in self.np_random.uniform(0, FASTEST, n_tasks).round(2)]

    def set_task(self, task: float) -> None:
        """Make it the task from the next reset on. Raises UserError unless it is a velocity from 0 to 3."""
        if not is_number(task, 0, FASTEST):
            raise UserError(f"HalfCheetahVelocity: a task is a velocity from 0 to {FASTEST:g}, not {task!r}.")
        self._task = float(task)

    def get_task(self) -> float:
        return self._task

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        return {
            "physics": physics_of(self.model, self.data),
            "tasks": (self._wanted, self._task),
            "velocities": list(self._velocities),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, qpos: Any, qvel: Any = None) -> None:
        """Go on where the environment of `get_state` was; or, as Gymnasium's own, set positions and velocities."""
        if not isinstance(qpos, dict):
            super().set_state(qpos, qvel)
            return
        state = qpos
        set_physics(self.model, self.data, state["physics"])
        self._wanted, self._task = state["tasks"]
        self._velocities = list(state["velocities"])
        self.np_random.bit_generator.state = state["random"]

    def reset_model(self) -> NDArray[np.float64]:
        self._wanted = self._task
        self._velocities = []
        return super().reset_model()

    def _get_reset_info(self) -> dict[str, Any]:
        return {**super()._get_reset_info(), "measures": {"velocity": 0.0}}

    def step(self, action: NDArray[np.floating]) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        self._velocities.append(float(info["x_velocity"]))
        info["measures"] = {"velocity": float(np.mean(self._velocities))}
        return observation, float(reward), terminated, len(self._velocities) >= self.max_episode_steps, info

    def _get_rew(self, x_velocity: float, action: NDArray[np.floating]) -> tuple[float, dict[str, float]]:
        forward, cost = -self._forward_reward_weight * abs(x_velocity - self._wanted), self.control_cost(action)
        return forward - cost, {"reward_forward": forward, "reward_ctrl": -cost}
