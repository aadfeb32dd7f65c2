"""Steps per second of Kitchen-v0 against bare MuJoCo and FrankaKitchen-v1. The last line is one JSON object.

``ratio`` is against 40 bare ``mj_step`` of the very model that the environment steps, with the same control targets;
``ratio_full_model`` against the same of the model with its decoration, as FrankaKitchen-v1 has it;
``ratio_franka_kitchen`` against ``FrankaKitchen-v1.step``. Each is the median over
interleaved rounds; CPU seconds are counted, which other work on the machine disturbs least.
"""

import json
import time
from collections.abc import Callable

import gymnasium as gym
import gymnasium_robotics
import mujoco
import numpy as np
import typer

from rllib_spirl.envs.kitchen import SUBSTEPS, KitchenEnv, load_model


def main(rounds: int = 41, steps: int = 60, seed: int = 0) -> None:
    """Time all four on the same smooth random actions."""
    gym.register_envs(gymnasium_robotics)
    rng = np.random.default_rng(seed)
    actions = np.cumsum(rng.normal(0, 0.25, (steps, 9)), axis=0).clip(-1, 1)
    env = KitchenEnv(max_episode_steps=10**9)
    reference = gym.make("FrankaKitchen-v1", max_episode_steps=10**9, terminate_on_tasks_completed=False)
    env.reset(seed=seed)
    initial = env.data.qpos.copy()
    targets = np.empty((steps, 9))
    for i, action in enumerate(actions):
        env.step(action)
        targets[i] = env.data.ctrl

    def ours() -> None:
        env.reset(seed=seed)
        for action in actions:
            env.step(action)

    def bare(model: mujoco.MjModel) -> Callable[[], None]:
        data = mujoco.MjData(model)

        def run() -> None:
            mujoco.mj_resetData(model, data)
            data.qpos[:] = initial
            mujoco.mj_forward(model, data)
            for target in targets:
                data.ctrl[:] = target
                mujoco.mj_step(model, data, nstep=SUBSTEPS)

        return run

    def franka() -> None:
        reference.reset(seed=seed)
        for action in actions:
            reference.step(action)

    runs = {"ours": ours, "bare": bare(load_model()), "full": bare(load_model(visual=True)), "franka": franka}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in rng.permutation(list(runs)):
            run = runs[name]
            start = time.process_time()
            run()
            rates[name].append(steps / (time.process_time() - start))
    ratios = {n: np.array(rates["ours"]) / np.array(rates[n]) for n in ("bare", "full", "franka")}
    result = {
        "name": "Kitchen-v0 step / bare mj_step x 40",
        "ours": round(float(np.median(rates["ours"])), 1),
        "reference": round(float(np.median(rates["bare"])), 1),
        "unit": "env steps/s",
        "ratio": round(float(np.median(ratios["bare"])), 3),
        "rounds": rounds,
        "spread": [round(float(r), 3) for r in (ratios["bare"].min(), ratios["bare"].max())],
        "ratio_full_model": round(float(np.median(ratios["full"])), 3),
        "ratio_franka_kitchen": round(float(np.median(ratios["franka"])), 3),
        "franka_kitchen": round(float(np.median(rates["franka"])), 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
