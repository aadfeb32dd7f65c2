"""How good and how fast the scripted demonstrators are. The last line is one JSON object.

``of_physics`` of the kitchen's is the rate of demonstrations against that of their bare physics: the same model stepped
as often, from the same state, with the same control targets. Each demonstration is followed by its physics in the same
process, and CPU seconds are counted, which other work on the machine disturbs least.

python benchmarks/demos.py kitchen --long --seed 7
python benchmarks/demos.py block_stacking --episodes 200 --seed 7
"""

import json
import time

import mujoco
import numpy as np
import typer

from rllib_spirl.data import Episode
from rllib_spirl.demos import block_stacking as stacking
from rllib_spirl.demos.kitchen import Demonstration, demonstrate
from rllib_spirl.envs.kitchen import SUBSTEPS, SUBTASKS, KitchenEnv
from rllib_spirl.progress import track

app = typer.Typer(help=__doc__, add_completion=False)


@app.callback()
def _main() -> None:
    """Benchmarks of the demonstrators."""


@app.command()
def kitchen(
    chains: int = typer.Option(60, help="Number of demonstrations."),
    long: bool = typer.Option(False, "--long", help="Five times as many."),
    length: int = typer.Option(4, help="Subtasks in each, drawn at random without repetition."),
    seed: int = typer.Option(7, help="Of the orders; demonstration i has seed + i."),
    noise: float = typer.Option(0.05, help="Standard deviation of the action noise."),
) -> None:
    """Random chains of kitchen subtasks."""
    rng = np.random.default_rng(seed)
    chains *= 5 if long else 1
    demos: list[tuple[list[str], Demonstration]] = []
    seconds = np.empty((chains, 2))  # of a demonstration, and of its physics
    demonstrate(["kettle"], seed)  # loads the model
    for i in track(range(chains), "demonstrating", total=chains):
        order = [str(name) for name in rng.choice(list(SUBTASKS), length, replace=False)]
        start = time.process_time()
        demo = demonstrate(order, seed + i, noise)
        seconds[i] = time.process_time() - start, _physics_seconds(demo.episode, seed + i)
        demos.append((order, demo))
    cpu, physics = seconds.mean(0)
    ratios = seconds[:, 1] / seconds[:, 0]

    good = [d for _, d in demos if d.success]
    steps = [max(d.steps.values()) for d in good]
    tried = {n: [d for order, d in demos if n in order] for n in SUBTASKS}
    done = {n: [d for d in tried[n] if n in d.completed] for n in SUBTASKS}
    kettle = [d.kettle_distance for d in done["kettle"]]
    result = {
        "name": "kitchen demonstrations",
        "chains": chains,
        "seed": seed,
        "noise": noise,
        "subtask_success": {n: _share(len(done[n]), len(tried[n])) for n in SUBTASKS},
        "chain_success": _share(len(good), chains),
        "within_280": _share(sum(s <= 280 for s in steps), chains),
        "median_steps": float(np.median(steps)) if steps else None,
        "p90_steps": float(np.percentile(steps, 90)) if steps else None,
        "mean_steps": round(float(np.mean(steps)), 1) if steps else None,
        "cpu_seconds": round(cpu, 3),
        "physics_cpu_seconds": round(physics, 3),
        "of_physics": round(physics / cpu, 3),
        "of_physics_p10_p90": [round(float(r), 3) for r in np.percentile(ratios, (10, 90))],
        "still_completed": {n: _share(sum(n in d.still_completed for d in done[n]), len(done[n])) for n in SUBTASKS},
        "kettle_within_0.15": _share(sum(k < 0.15 for k in kettle), len(kettle)),
        "kettle_distance_max": round(max(kettle), 3) if kettle else None,
    }
    print(json.dumps(result))


@app.command("block_stacking")
def block_stacking(
    episodes: int = typer.Option(200, help="Number of demonstrations."),
    blocks: int = typer.Option(5, help="In the scene."),
    stacks: int = typer.Option(2, help="Stacks of two to make in each."),
    seed: int = typer.Option(7, help="Demonstration i has seed + i."),
    noise: float = typer.Option(0.05, help="Standard deviation of the action noise."),
) -> None:
    """Stacks of two blocks, one after the other."""
    start = time.process_time()
    demos = [
        stacking.demonstrate(blocks, stacks, seed + i, noise)
        for i in track(range(episodes), "demonstrating", total=episodes)
    ]
    cpu = time.process_time() - start

    steps = [len(d.episode) for d in demos if d.success]
    result = {
        "name": "block stacking demonstrations",
        "episodes": episodes,
        "blocks": blocks,
        "stacks": stacks,
        "seed": seed,
        "noise": noise,
        "success": _share(len(steps), episodes),
        "stacks_per_try": _share(sum(len(d.completed) for d in demos), sum(d.tries for d in demos)),
        "median_steps": float(np.median(steps)) if steps else None,
        "p90_steps": float(np.percentile(steps, 90)) if steps else None,
        "steps_per_cpu_second": round(sum(len(d.episode) for d in demos) / cpu),
    }
    print(json.dumps(result))


def _physics_seconds(episode: Episode, seed: int) -> float:
    """CPU seconds that a demonstration's ``mj_step`` take, started from where it started."""
    env = KitchenEnv()
    env.reset(seed=seed)
    model, data = env.model, env.data
    # An action is added to the observed joints (2 rad/s for a step); actuators keep to their own ranges.
    targets = episode.states[:-1, :9] + 2.0 * episode.actions * model.opt.timestep * SUBSTEPS
    start = time.process_time()
    for target in targets:
        data.ctrl[:] = target
        mujoco.mj_step(model, data, nstep=SUBSTEPS)
    return time.process_time() - start


def _share(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None


if __name__ == "__main__":
    app()
