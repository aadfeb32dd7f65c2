"""A point mass small enough to train on in a test: it is to reach (1, 0) and then (1, 1)."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rllib_spirl.data import Episode, TrajectoryWriter

GOALS = np.array([[1.0, 0.0], [1.0, 1.0]])
STEP = 0.1
RADIUS = 0.15


class PointEnv(gym.Env):
    """State (2,): position. Action (2,): displacement in units of 0.1. +1 for each goal reached, in order."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.limit = (config or {}).get("limit", 60)
        self.reset_to = (config or {}).get("start", [0.0, 0.0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.position = np.array(self.reset_to) + self.np_random.uniform(-0.02, 0.02, 2)
        self.reached = self.steps = 0
        return self.position.astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.position = self.position + STEP * np.clip(action, -1, 1)
        self.steps += 1
        reward = 0.0
        while self.reached < 2 and np.linalg.norm(self.position - GOALS[self.reached]) < RADIUS:
            self.reached += 1
            reward += 1
        info = {"subtasks": {"right": self.reached > 0, "up": self.reached > 1}}
        done = self.reached == 2
        return self.position.astype(np.float32), reward, done, not done and self.steps >= self.limit, info

    def get_state(self) -> dict[str, Any]:
        random = self.np_random.bit_generator.state
        return {"position": self.position, "reached": self.reached, "steps": self.steps, "random": random}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position, self.reached, self.steps = state["position"], state["reached"], state["steps"]
        self.np_random.bit_generator.state = state["random"]

    def relabel(self, states: Any) -> tuple[Any, int | None]:
        rewards, reached, done_at = np.zeros(len(states) - 1), 0, None
        for t, state in enumerate(states[1:]):
            while reached < 2 and np.linalg.norm(state - GOALS[reached]) < RADIUS:
                reached += 1
                rewards[t] += 1
                done_at = t if reached == 2 else None
        return rewards, done_at


class PointsEnv(VectorEnv[Any, Any, Any]):
    """Many of `PointEnv` at once, in arrays.

    Config: ``num_envs``, ``limit``, and ``same_step`` for episodes that begin in the step in which the last one ended.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        one = PointEnv()
        self.num_envs, self.limit = config["num_envs"], config.get("limit", 60)
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(one.observation_space, self.num_envs)
        self.action_space = batch_space(one.action_space, self.num_envs)
        self.same_step = config.get("same_step", False)
        mode = AutoresetMode.SAME_STEP if self.same_step else AutoresetMode.NEXT_STEP
        self.metadata = {"autoreset_mode": mode}
        self.over = np.zeros(self.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.position = np.zeros((self.num_envs, 2))
        self.reached, self.steps = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        self._begin(np.ones(self.num_envs, bool))
        return self.position.astype(np.float32), {}

    def _begin(self, rows: Any) -> None:
        self.position[rows] = self.np_random.uniform(-0.02, 0.02, (rows.sum(), 2))
        self.reached[rows] = self.steps[rows] = 0

    def step(self, actions: Any) -> Any:
        reset = self.over.copy()
        self.position += STEP * np.clip(actions, -1, 1)
        self.steps += 1
        before = self.reached.copy()
        for _ in range(2):
            goals = GOALS[np.minimum(self.reached, 1)]
            near = np.linalg.norm(self.position - goals, axis=1) < RADIUS
            self.reached += near & (self.reached < 2)
        self._begin(reset)
        done = (self.reached == 2) & ~reset
        late = ~done & ~reset & (self.steps >= self.limit)
        rewards = np.where(reset, 0.0, self.reached - before)
        everyone = np.ones(self.num_envs, bool)
        right, up = self.reached > 0, self.reached > 1
        infos = {"subtasks": {"right": right, "_right": everyone, "up": up, "_up": everyone}, "_subtasks": everyone}
        over = done | late
        if self.same_step:
            infos |= {"final_obs": self.position.astype(np.float32), "_final_obs": over}
            infos |= {"final_info": {k: v for k, v in infos.items() if "final" not in k}, "_final_info": over}
            self._begin(over)
        else:
            self.over = over
        return self.position.astype(np.float32), rewards, done, late, infos


def write_demonstrations(path: Path, episodes: int = 12, seed: int = 0, overwrite: bool = False) -> Path:
    """Noisy walks to one or both goals, some the wrong way round."""
    rng = np.random.default_rng(seed)
    with TrajectoryWriter(path, fps=10, overwrite=overwrite) as writer:
        for index in range(episodes):
            position = rng.uniform(-0.02, 0.02, 2)
            states, actions = [position], []
            targets = GOALS if index % 3 else GOALS[::-1]
            for target in targets:
                for _ in range(60):
                    action = np.clip((target - position) / STEP + rng.normal(0, 0.1, 2), -0.9, 0.9)
                    position = position + STEP * action
                    states.append(position)
                    actions.append(action)
                    if np.linalg.norm(position - target) < 0.05:
                        break
            rewards = PointEnv().relabel(np.array(states))[0]
            writer.add(Episode(np.array(states), np.array(actions), rewards, bool(rewards.sum() == 2), False, "point"))
    return path


# For experiment files, as "tests.point:Point-v0".
gym.register("Point-v0", entry_point=lambda **config: PointEnv(config))
