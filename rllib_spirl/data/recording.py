"""Record what an environment and whoever acts in it do, as a data set."""

from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from rllib_spirl.data.columns import PICTURE
from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.episode import Episode
from rllib_spirl.data.importing import floats, scale_actions
from rllib_spirl.data.writer import TrajectoryWriter
from rllib_spirl.errors import UserError


def state_part(space: gym.Space) -> gym.Space | None:
    """The space of states in observations that show pictures, too; None where observations are something else.

    These observations are a dict of "state" (S,) and "images" (2, 32, 32, 3) uint8: the pictures around the agent
    before and after the last step, after a reset twice the same.
    """
    if isinstance(space, Dict) and {"state", "images"} <= set(space):
        pair = space["images"]
        if isinstance(pair, Box) and (pair.shape, pair.dtype) == ((2, *PICTURE), np.uint8):
            return space["state"]
    return None


class RecordTrajectories(gym.Wrapper[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Records every episode of an environment into a data set.

    The data set appears at ``path`` when the environment is closed; `data_set` is then what was recorded. An episode
    that is reset or closed before its end is recorded as truncated. Actions are recorded as executed: clipped to the
    bounds of the action space, and mapped from them to [-1, 1].

    Example:
        >>> with RecordTrajectories(gym.make("Reacher-v5"), "reacher-data", task="reach") as env:
        ...     for episode in range(100):
        ...         observation, _ = env.reset(seed=episode)
        ...         done = False
        ...         while not done:
        ...             observation, _, terminated, truncated, _ = env.step(my_controller(observation))
        ...             done = terminated or truncated

    Args:
        env: With flat Box observations (S,), or a dict of "state" and "images", see `state_part`, and bounded flat Box
            actions (A,).
        path: The directory to make.
        task: What the next episodes do. It may be set anew, as the attribute `task`, before any reset.
        fps: Low-level steps per second; by default what the environment is rendered with, else 10.
        overwrite: Whether to replace a data set that is there.

    Raises:
        UserError: When the spaces are others, or ``path`` exists or cannot be written.
    """

    def __init__(
        self,
        env: gym.Env,
        path: str | Path,
        *,
        task: str | None = None,
        fps: float | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__(env)
        name = env.spec.id if env.spec else None
        self.task = self._task = task or name or type(env.unwrapped).__name__
        states = state_part(env.observation_space)
        self._sees = states is not None
        for what, space in (("observations", states or env.observation_space), ("actions", env.action_space)):
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise UserError(
                    f"{name or self.task}: {what} are {space}, but only a flat Box can be recorded; wrap the "
                    "environment first, e.g. in gymnasium.wrappers.FlattenObservation"
                )
        assert isinstance(env.action_space, Box)
        self._low, self._high = env.action_space.low, env.action_space.high
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            raise UserError(
                f"{name or self.task}: actions have no bounds to be scaled from; give the action space finite ones "
                "first, e.g. with gymnasium.wrappers.TransformAction"
            )
        facts = {"source": "recorded", "action_low": self._low.tolist(), "action_high": self._high.tolist()}
        rate = fps or float(env.metadata.get("render_fps") or 10)
        self._writer = TrajectoryWriter(path, fps=rate, env=name, source=facts, overwrite=overwrite)
        self._writer.__enter__()
        self._states: list[NDArray[Any]] = []
        self._pictures: list[NDArray[np.uint8]] = []
        self._actions: list[NDArray[Any]] = []
        self._rewards: list[float] = []
        self._closed = False

    @property
    def data_set(self) -> DataSet:
        """What was recorded. There is something as soon as the environment is closed, if it was stepped at all."""
        return self._writer.data_set

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._add(terminated=False)
        self._task = self.task
        observation, info = self.env.reset(seed=seed, options=options)
        self._keep(observation)
        return observation, info

    def step(self, action: NDArray[Any]) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if not self._states:
            raise UserError(f"{self.task}: no episode is going on; reset the environment first")
        executed = np.clip(action, self._low, self._high)
        recorded = scale_actions(floats(executed), self._low, self._high)  # before the environment can change it
        observation, reward, terminated, truncated, info = self.env.step(executed)
        self._keep(observation)
        self._actions.append(recorded)
        self._rewards.append(float(reward))
        if terminated or truncated:
            self._add(terminated=terminated)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment and write the data set. Of an environment that was never stepped nothing is left."""
        if not self._closed:
            self._closed = True
            try:
                self._add(terminated=False)
            finally:  # what was recorded before an episode that cannot be is kept
                if self._writer.num_episodes:
                    self._writer.close()
                else:
                    self._writer.discard()
                super().close()

    def _keep(self, observation: Any) -> None:
        self._states.append(np.array(observation["state"] if self._sees else observation))
        if self._sees:
            self._pictures.append(np.array(observation["images"][1]))  # the later one shows this state

    def _add(self, *, terminated: bool) -> None:
        """End the episode that is going on, if it has any steps. It is over even where it cannot be written."""
        states, pictures, actions, rewards = self._states, self._pictures, self._actions, self._rewards
        self._states, self._pictures, self._actions, self._rewards = [], [], [], []
        if actions:
            self._writer.add(
                Episode(
                    states=np.array(states),
                    actions=np.array(actions),
                    rewards=np.array(rewards),
                    terminated=terminated,
                    truncated=not terminated,
                    task=self._task,
                    images=np.array(pictures[:-1]) if self._sees else None,
                )
            )
