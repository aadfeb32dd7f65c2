"""How fast the agent-centred pictures of block stacking are drawn. The last line is one JSON object.

``pictures_per_second`` is that of recorded states drawn together, ``one_at_a_time`` that of an environment;
``env_steps`` and ``env_steps_with_images`` are BlockStacking-v0's own. Each is the median over
rounds, in CPU seconds of one core.
"""

import json
import time
from collections.abc import Callable

import numpy as np
import typer

from rllib_spirl.envs.block_stacking import BlockStackingEnv, pictures


def main(blocks: int = 11, states: int = 512, rounds: int = 9, seed: int = 0) -> None:
    """Time them on the states of smooth random actions."""
    rng = np.random.default_rng(seed)
    actions = np.sin(np.cumsum(rng.normal(0, 0.3, (states, 3)), axis=0))
    plain = BlockStackingEnv(blocks=blocks, max_episode_steps=states + 1)
    seeing = BlockStackingEnv(blocks=blocks, images=True, max_episode_steps=states + 1)

    def steps(env: BlockStackingEnv) -> list:
        env.reset(seed=seed)
        return [env.step(action)[0] for action in actions]

    recorded = np.array(steps(plain))
    runs: dict[str, Callable[[], object]] = {
        "pictures_per_second": lambda: pictures(recorded),
        "one_at_a_time": lambda: [pictures(state) for state in recorded],
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
    print(json.dumps({"name": "32x32 agent-centred pictures", "blocks": blocks, "rounds": rounds, **medians}))


if __name__ == "__main__":
    typer.run(main)
