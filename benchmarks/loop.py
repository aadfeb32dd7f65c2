"""Low-level steps per second of the whole training loop. The last line is one JSON object.

``ratio`` is against sampling alone on the same machine: one update of 256 transitions per skill, one remote env runner,
so that learning overlaps sampling on a second core; ``defaults`` is with two updates per skill, as SPiRL trains by
default. Updates are compiled, as in the tuned examples; ``--no-compiled`` for how it is without. Half of every batch
comes from demonstrations. Wall clock.
"""

import time
from typing import Any

import numpy as np
import typer
from common import (
    SHORT_S,
    Long,
    compare,
    kitchen_config,
    kitchen_skills,
    low_level_steps,
    report,
    rounds,
    start_ray,
    warm,
)

from rllib_spirl.algorithm.results import ENV_STEPS
from rllib_spirl.algorithm.spirl import SPiRL


def build(skills: str, updates_per_step: float, compiled: bool) -> SPiRL:
    config = kitchen_config(
        skills, updates_per_step=updates_per_step, warmup_steps=100, compile_updates=compiled
    ).env_runners(num_env_runners=1)
    return warm(config.build_algo())


def env_steps(algorithm: SPiRL) -> float:
    return float(algorithm.metrics.peek(ENV_STEPS, default=0))


def main(count: int = 40, steps: int = 600, compiled: bool = True, long: Long = False) -> None:
    """Rounds of about ``steps`` low-level steps each: shorter than the times for which the machine keeps its speed."""
    start_ray()
    skills = kitchen_skills()
    once, twice = (build(skills, updates, compiled) for updates in (1.0, 2.0))

    def drain(algorithm: SPiRL) -> None:
        """No request in flight: nothing samples while another loop is timed."""
        group = algorithm.env_runner_group
        while group.num_in_flight_async_reqs("sample"):
            group.fetch_ready_async_reqs(tags="sample", timeout_seconds=0.1)

    def train(algorithm: SPiRL) -> float:
        """From the first fragment on, so that learning overlaps sampling all the time."""
        before = env_steps(algorithm)
        while env_steps(algorithm) == before:
            algorithm.training_step()
        before, start = env_steps(algorithm), time.perf_counter()
        while env_steps(algorithm) - before < steps:
            algorithm.training_step()
        rate = (env_steps(algorithm) - before) / (time.perf_counter() - start)
        drain(algorithm)
        return rate

    def sample_only() -> float:
        once._sample()
        start, done = time.perf_counter(), 0
        while done < steps:
            done += low_level_steps(once._sample())
        rate = done / (time.perf_counter() - start)
        drain(once)
        return rate

    runs = {"once": lambda: train(once), "twice": lambda: train(twice), "sampling": sample_only}
    rates = rounds(runs, count, None if long else SHORT_S)
    result: dict[str, Any] = compare("training loop / sampling alone", rates, "once", "sampling", "env steps/s")
    report(result | {"defaults": round(float(np.median(rates["twice"])), 1)})
    for algorithm in (once, twice):
        algorithm.stop()


if __name__ == "__main__":
    typer.run(main)
