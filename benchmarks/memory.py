"""Memory of the replay buffer, and its growth over a long run. The last line is one JSON object.

``ratio`` is the resident memory of a full replay of a million transitions (30-d states, 10-d z) over 350 MB: at most 1.
``growth_mb`` is how much the training process grows over a run of ``steps`` low-level steps beyond its replay, measured
from a tenth of the way on. The run has a stand-in for the physics, and learns as SPiRL does by default, at a smaller
batch size.
"""

import gc
import time
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import torch
import typer
from common import Long, kitchen_config, kitchen_skills, random_transitions, report, start_ray
from rich.console import Console
from rich.progress import Progress

from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.algorithm.results import ENV_STEPS


class Still(gym.Env):
    """States as wide as the kitchen's, at no cost."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (30,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (9,), np.float32)

    def __init__(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.standard_normal(30), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        info = {"subtasks": {"one": False}}
        return self.np_random.standard_normal(30), 0.0, False, self.steps >= 280, info


def resident() -> float:
    """Resident memory of this process in MB."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def replay_memory() -> float:
    before = resident()
    replay = SkillReplay(1_000_000, 30, 10)
    piece = random_transitions(10_000)
    for _ in range(100):
        replay.add(piece)
    used = resident() - before
    assert len(replay) == 1_000_000
    return used


def main(steps: int | None = None, long: Long = False) -> None:
    """Fill a replay, then train for ``steps`` low-level steps: 300,000 with --long, else 30,000."""
    steps = steps or (300_000 if long else 30_000)
    torch.set_num_threads(1)
    replay = replay_memory()
    start_ray()
    config = kitchen_config(kitchen_skills(), train_batch_size_per_learner=32, replay_capacity=steps // 10)
    algorithm = config.environment(Still).build_algo()
    full = {name: torch.zeros_like(column) for name, column in algorithm.replay._columns.items()}
    algorithm.replay.add(full)  # the whole ring is resident from the start
    del full
    samples: list[tuple[float, float]] = []
    start = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("training", total=steps)
        done = 0.0
        while done < steps:
            result = algorithm.train()
            done = result[ENV_STEPS]
            progress.update(task, completed=done)
            if len(samples) < 10 * done / steps * 4:
                samples.append((done, resident()))
    early = next(memory for at, memory in samples if at >= steps / 10)
    report(
        {
            "name": "replay of 1e6 transitions / 350 MB",
            "ours": round(replay, 1),
            "reference": 350,
            "unit": "MB",
            "ratio": round(replay / 350, 3),
            "rounds": 1,
            "spread": None,
            "growth_mb": round(samples[-1][1] - early, 1),
            "growth_steps": int(samples[-1][0]),
            "resident_mb": [round(memory) for _, memory in samples[:: max(1, len(samples) // 10)]],
            "seconds": round(time.perf_counter() - start),
        }
    )


if __name__ == "__main__":
    typer.run(main)
