"""Low-level steps per second of sampling, as training does it. The last line is one JSON object.

One env runner (policy, skill environment, decoder, episodes, metrics) against bare ``mj_step`` x 40 of the same model
with the same control targets; and two remote env runners against one. For the closed- and the open-loop decoder.
"""

import time
from typing import Any

import mujoco
import numpy as np
import ray
import torch
import typer
from common import (
    SHORT_S,
    Long,
    RecordedKitchen,
    compare,
    kitchen_config,
    kitchen_skills,
    low_level_steps,
    report,
    rounds,
    start_ray,
)

from rllib_spirl.algorithm.remote import result_of
from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner
from rllib_spirl.envs.kitchen import SUBSTEPS, load_model


def one_runner(decoder: Any, count: int, seconds: float | None) -> dict[str, Any]:
    config = kitchen_config(kitchen_skills(decoder)).environment(RecordedKitchen)
    runner = SkillEnvRunner(config=config, worker_index=0)
    env = runner.env.unwrapped.envs[0].unwrapped
    model = load_model()
    data = mujoco.MjData(model)
    runner.sample()
    start_positions = np.empty(0)

    def ours() -> float:
        nonlocal start_positions
        env.targets.clear()
        start_positions = np.concatenate([env.data.qpos, env.data.qvel])
        start = time.process_time()
        runner.sample()
        runner.get_metrics()
        seconds = time.process_time() - start
        return sum(t is not None for t in env.targets) / seconds

    def bare() -> float:
        """The physics of the last call of ``ours``."""
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = np.split(start_positions, [model.nq])
        mujoco.mj_forward(model, data)
        steps = 0
        start = time.process_time()
        for target in env.targets:
            if target is None:
                mujoco.mj_resetData(model, data)
                data.qpos[:] = env.initial_positions
                continue
            data.ctrl[:] = target
            mujoco.mj_step(model, data, nstep=SUBSTEPS)
            steps += 1
        return steps / (time.process_time() - start)

    ours()
    rates = rounds({"ours": ours, "bare": bare}, count, seconds)
    runner.stop()
    return compare(f"one env runner, {decoder} decoder / bare mj_step x 40", rates, "ours", "bare", "env steps/s")


def two_runners(decoder: Any, count: int, fragments: int, seconds: float | None) -> dict[str, Any]:
    """Wall-clock rates of one and of two remote env runners."""
    config = kitchen_config(kitchen_skills(decoder))
    actor = ray.remote(num_cpus=1)(SkillEnvRunner)
    runners = [actor.remote(config=config, worker_index=i + 1) for i in range(2)]

    def sample(chosen: list[Any]) -> float:
        """Nobody waits for another's fragment, as in training."""
        start = time.perf_counter()
        attempted = ray.get([r.sample_with.remote(None) for _ in range(10 * fragments) for r in chosen])
        steps = sum(low_level_steps(episodes) for episodes, _ in map(result_of, attempted))
        return steps / (time.perf_counter() - start)

    rates = rounds({"two": lambda: sample(runners), "one": lambda: sample(runners[:1])}, count, seconds)
    for runner in runners:
        ray.kill(runner)
    return compare(f"two env runners / one, {decoder} decoder", rates, "two", "one", "env steps/s")


def main(count: int = 7, fragments: int = 4, long: Long = False) -> None:
    """Measure rounds of fragments of 8 skills, so 80 low-level steps each; with --long the open loop too.

    Against physics a round is one fragment, which takes less time than that for which the machine keeps its speed.
    """
    seconds = None if long else SHORT_S / 2
    torch.set_num_threads(1)
    start_ray()
    results = []
    for decoder in ("closed_loop", "open_loop") if long else ("closed_loop",):
        results.append(one_runner(decoder, 50 * count, seconds))
        results.append(two_runners(decoder, count, fragments, seconds))
    report(results[0] | {"results": results})


if __name__ == "__main__":
    typer.run(main)
