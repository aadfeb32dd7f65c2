"""Low-level steps per second of one env runner with many environments side by side. The last line is one JSON object.

``batched``: an environment that is many at once, in arrays, at no cost of its own, so that what is measured is the
policy, the decoder and the episodes. ``sync``: single environments, stepped one after the other, up to 256. Skills and
networks are as large as the kitchen's; one thread.
"""

import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
import typer
from common import Long, kitchen_config, kitchen_skills, low_level_steps, report
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner

LIMIT = 280


class Drifting(gym.Env):
    """States as wide as the kitchen's, which actions move a little."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (30,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (9,), np.float32)

    def __init__(self, config: dict[str, Any]) -> None:
        self.state = np.zeros(30, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.standard_normal(30, np.float32), 0
        return self.state, {}

    def step(self, action: Any) -> Any:
        self.state[:9] += 0.01 * action
        self.steps += 1
        return self.state, 0.0, False, self.steps >= LIMIT, {}


class ManyDrifting(VectorEnv[Any, Any, Any]):
    """The same, many at once. Their episodes end at different steps."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    single_observation_space, single_action_space = Drifting.observation_space, Drifting.action_space

    def __init__(self, config: dict[str, Any]) -> None:
        self.num_envs = config["num_envs"]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.states = self.np_random.standard_normal((self.num_envs, 30), np.float32)
        self.steps = self.np_random.integers(LIMIT, size=self.num_envs)
        self.never = np.zeros(self.num_envs, bool)
        return self.states, {}

    def step(self, actions: Any) -> Any:
        over = self.steps >= LIMIT
        self.states[:, :9] += 0.01 * actions
        self.steps += 1
        self.states[over] = self.np_random.standard_normal((int(over.sum()), 30), np.float32)
        self.steps[over] = 0
        return self.states, np.zeros(self.num_envs), self.never, self.steps >= LIMIT, {}


def rate(count: int, *, batched: bool, seconds: float) -> float:
    """Low-level steps a second of an env runner with so many environments."""
    mode = "vector_entry_point" if batched else "sync"
    config = kitchen_config(kitchen_skills()).environment(ManyDrifting if batched else Drifting, env_config={})
    config = config.env_runners(num_envs_per_env_runner=count, gym_env_vectorize_mode=mode)
    runner = SkillEnvRunner(config=config, worker_index=0)
    runner.sample(num_timesteps=count)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        episodes = runner.sample(num_timesteps=8 * count)
        steps += low_level_steps(episodes)
        runner.get_metrics()
    taken = time.perf_counter() - start
    runner.stop()
    return steps / taken


def main(long: Long = False) -> None:
    """Measure 1, 16, 256 and 4,096 environments for five seconds each, or with --long for thirty."""
    torch.set_num_threads(1)
    seconds = 30.0 if long else 5.0
    batched = {count: round(rate(count, batched=True, seconds=seconds)) for count in (1, 16, 256, 4096)}
    sync = {count: round(rate(count, batched=False, seconds=seconds)) for count in (1, 16, 256)}
    report({"name": "environments side by side", "unit": "low-level steps/s", "batched": batched, "sync": sync})


if __name__ == "__main__":
    typer.run(main)
