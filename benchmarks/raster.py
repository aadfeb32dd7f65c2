"""How fast the agent-centred pictures of block stacking or of a maze are drawn. The last line is one JSON object.

``pictures_per_second`` is that of recorded states drawn together, ``one_at_a_time`` that of an environment;
``env_steps`` and ``env_steps_with_images`` are the environment's own. Each is the median over rounds, in CPU seconds of
one core.

python benchmarks/raster.py
python benchmarks/raster.py --environment maze
"""

import json
import time
from collections.abc import Callable
from typing import Literal

import gymnasium as gym
import numpy as np
import typer

from rllib_spirl.envs.block_stacking import BlockStackingEnv
from rllib_spirl.envs.maze import MazeEnv


def main(
    environment: Literal["block_stacking", "maze"] = "block_stacking",
    blocks: int = 11,
    size: int = 40,
    states: int = 512,
    rounds: int = 9,
    seed: int = 0,
) -> None:
    """Time them on the states of smooth random actions."""
    rng = np.random.default_rng(seed)
    plain, seeing = (
        MazeEnv(size, images=images, max_episode_steps=states + 1)
        if environment == "maze"
        else BlockStackingEnv(blocks, images=images, max_episode_steps=states + 1)
        for images in (False, True)
    )
    actions = np.sin(np.cumsum(rng.normal(0, 0.3, (states, *plain.action_space.shape)), axis=0))

    def steps(env: gym.Env) -> list:
        env.reset(seed=seed)
        return [env.step(action)[0] for action in actions]

    recorded = np.array(steps(plain))
    runs: dict[str, Callable[[], object]] = {
        "pictures_per_second": lambda: plain.pictured(recorded),
        "one_at_a_time": lambda: [plain.pictured(state) for state in recorded],
        "env_steps": lambda: steps(plain),
        "env_steps_with_images": lambda: steps(seeing),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            rates[name].append(states / (time.process_time() - start))
    medians = {name: round(float(np.median(values))) for name, values in rates.items()}
    print(json.dumps({"name": "32x32 agent-centred pictures", "environment": environment, "rounds": rounds, **medians}))


if __name__ == "__main__":
    typer.run(main)
