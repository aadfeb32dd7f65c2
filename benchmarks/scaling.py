"""How sampling grows with the number of env runners. The last line is one JSON object.

The environment only sleeps: a skill of ten low-level steps takes 50 ms and no processor time, so that two cores carry
what the env runners do themselves, the policy, the decoder and the episodes, and what the driver does with their
fragments. ``efficiency_at_32`` is the rate of 32 env runners over 32 times that of one. Beside each rate are the share
of the driver's time in each stage, its processor time, the updates that it made, and the memory of an env runner.
Updates go on meanwhile at a rate of their own, which two cores can keep.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import psutil
import typer
from common import Long, kitchen_config, kitchen_skills, random_transitions, report, start_ray, warm

from rllib_spirl.algorithm.results import ENV_STEPS
from rllib_spirl.algorithm.spirl import SPiRL
from rllib_spirl.progress import track

SKILL_S = 0.05
STAGES = {"_sample": "waiting for samples", "_store": "storing them", "_update": "updates", "_sync_weights": "weights"}


class Sleeping(gym.Env):
    """As wide as the kitchen; a skill sleeps for `SKILL_S`."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (30,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (9,), np.float32)

    def __init__(self, config: dict[str, Any]) -> None:
        self.steps = 0
        self.state = np.zeros(30)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.state, {}

    def step(self, action: Any) -> Any:
        if self.steps % 10 == 0:  # at once, because to wake up costs processor time as well
            time.sleep(SKILL_S)
        self.steps += 1
        return self.state, 0.0, False, self.steps >= 280, {}


def timed(algorithm: SPiRL) -> dict[str, float]:
    """Seconds in each stage from now on, which the algorithm's methods are wrapped to add up."""
    spent: dict[str, float] = defaultdict(float)

    def wrap(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    for method, name in STAGES.items():
        setattr(algorithm, method, wrap(getattr(algorithm, method), name))
    return spent


def memory_mb(algorithm: SPiRL) -> float:
    """What an env runner's process has for itself, the mean over them."""
    pids = algorithm.env_runner_group.foreach_env_runner(_pid, local_env_runner=False)
    return float(np.mean([psutil.Process(pid).memory_full_info().uss for pid in pids])) / 1e6


def _pid(_: Any) -> int:
    return psutil.Process().pid


def main(
    most: int = 32,
    seconds: float = 8.0,
    updates_per_second: float = 5.0,
    decoder: Literal["open_loop", "closed_loop"] = "open_loop",
    long: Long = False,
) -> None:
    """Measure 1, 2, 4, … to ``most`` env runners, each for so many seconds; with --long three times as long."""
    seconds *= 3 if long else 1
    counts = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    start_ray(cpus=most + 1)
    config = kitchen_config(kitchen_skills(decoder), warmup_steps=100).environment(Sleeping, env_config={})
    algorithm = warm(config.env_runners(num_env_runners=1, max_requests_in_flight_per_env_runner=2).build_algo())
    algorithm.replay.add(random_transitions(20_000))
    spent, driver = timed(algorithm), psutil.Process()

    def run(for_seconds: float) -> dict[str, Any]:
        """Rates and shares over a while, which begins with samples and ends with them."""
        algorithm.training_step()
        spent.clear()
        before = {name: float(algorithm.metrics.peek(name, default=0)) for name in (ENV_STEPS, "updates")}
        start, cpu = time.perf_counter(), sum(driver.cpu_times()[:2])
        while time.perf_counter() - start < for_seconds:
            algorithm.training_step()
        taken = time.perf_counter() - start
        rates = {name: (float(algorithm.metrics.peek(name)) - then) / taken for name, then in before.items()}
        shares = {name: round(seconds_in / taken, 3) for name, seconds_in in spent.items()}
        return {
            "env_steps_per_s": round(rates[ENV_STEPS], 1),
            "updates_per_s": round(rates["updates"], 1),
            "driver_cpu": round((sum(driver.cpu_times()[:2]) - cpu) / taken, 3),
            "driver_shares": shares,
        }

    results = []
    for count in track(counts, "env runners", total=len(counts)):
        algorithm.env_runner_group.add_workers(count - algorithm.env_runner_group.num_remote_env_runners())
        algorithm.env_runner_group.foreach_env_runner(_pid, local_env_runner=False)  # they have begun
        changed = algorithm.config.copy(copy_frozen=False)
        changed.updates_per_step = updates_per_second * SKILL_S / count
        algorithm.config = changed
        run(2.0)
        results.append({"env_runners": count, **run(seconds), "memory_mb": round(memory_mb(algorithm))})
    alone = results[0]["env_steps_per_s"]
    for result in results:
        result["efficiency"] = round(result["env_steps_per_s"] / alone / result["env_runners"], 3)
        print(result)
    report({"name": "env runners", f"efficiency_at_{counts[-1]}": results[-1]["efficiency"], "results": results})
    algorithm.stop()


if __name__ == "__main__":
    typer.run(main)
