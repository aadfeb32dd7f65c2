"""``spirl data``: build a data set from a recipe, import one, look at one, draw its demonstrations."""

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from rllib_spirl import examples
from rllib_spirl.data import DataSet, Trajectories, importing
from rllib_spirl.data import recipe as recipes
from rllib_spirl.data.d4rl_hdf5 import D4RLRecipe
from rllib_spirl.data.lerobot import LeRobotRecipe
from rllib_spirl.data.minari import MinariRecipe
from rllib_spirl.demos.ogbench_file import OGBenchFile
from rllib_spirl.errors import UserError
from rllib_spirl.progress import stage
from rllib_spirl.yaml_text import mapping, parse_assignment

app = typer.Typer(help="Data sets of recorded trajectories.", no_args_is_help=True, pretty_exceptions_enable=False)

Output = Annotated[Path, typer.Option("--output", "-o", help="Directory to make.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a data set that is there.")]
Columns = Annotated[str | None, typer.Option(help="State dimensions to keep, e.g. 0:9,18:39.")]
Task = Annotated[str | None, typer.Option(help="What the episodes do.")]
Fps = Annotated[float, typer.Option(min=0.001, help="Steps per second.")]
Env = Annotated[str | None, typer.Option(help="Environment whose states these are, e.g. rllib_spirl/Kitchen-v0.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value, in place of the recipe's.")]
Skip = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged episodes out, and list them.")]
Rescale = Annotated[bool, typer.Option("--scale-actions", help="Map the range of each action dimension to [-1, 1].")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, or the name of a packaged one: kitchen_mixed.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Directory to make.")] = None,
    set_: Set = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one on each core.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Build the data set of a recipe, or say where it was built before."""
    file = examples.find(recipe, examples.RECIPES)
    print(recipes.build(file, output=output, overrides=_overrides(set_ or []), workers=workers, overwrite=overwrite))


@app.command("import-minari")
def import_minari(
    dataset: Annotated[str, typer.Argument(help="An id such as D4RL/kitchen/complete-v2, or a directory.")],
    output: Output,
    root: Annotated[Path | None, typer.Option(help="Minari's directory; else MINARI_DATASETS_PATH.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch it when it is not there.")] = False,
    observation_key: Annotated[
        str, typer.Option(help="Which entry of Dict observations is the state.")
    ] = "observation",
    state_columns: Columns = None,
    task: Task = None,
    task_key: Annotated[str | None, typer.Option(help="Info or observation that tells each episode's task.")] = None,
    fps: Fps = 10.0,
    scale_actions: Rescale = False,
    skip_damaged: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Import a Minari data set."""
    recipe = MinariRecipe(
        dataset=dataset,
        root=root,
        download=download,
        observation_key=observation_key,
        state_columns=state_columns,
        task=task,
        task_key=task_key,
        fps=fps,
        rescale_actions=scale_actions,
        skip_damaged=skip_damaged,
    )
    _write(recipe, output, overwrite)


@app.command("import-d4rl")
def import_d4rl(
    file: Annotated[Path, typer.Argument(help="A D4RL HDF5 file.")],
    output: Output,
    state_columns: Columns = None,
    task: Task = None,
    fps: Fps = 10.0,
    scale_actions: Rescale = False,
    env: Env = None,
    skip_damaged: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Import a D4RL HDF5 file."""
    recipe = D4RLRecipe(
        path=file,
        state_columns=state_columns,
        task=task,
        fps=fps,
        rescale_actions=scale_actions,
        env=env,
        skip_damaged=skip_damaged,
    )
    _write(recipe, output, overwrite)


@app.command("import-ogbench")
def import_ogbench(
    file: Annotated[Path, typer.Argument(help="An .npz file of OGBench, such as scene-play-v0.npz.")],
    output: Output,
    state_columns: Columns = None,
    task: Annotated[str, typer.Option(help="What the episodes do.")] = "play",
    fps: Fps = 20.0,
    scale_actions: Rescale = False,
    env: Annotated[
        str | None, typer.Option(help="Environment whose states these are.", show_default="by the file's name")
    ] = None,
    skip_damaged: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Import a file of OGBench's data."""
    recipe = OGBenchFile(
        path=file,
        state_columns=state_columns,
        task=task,
        fps=fps,
        rescale_actions=scale_actions,
        env=env,
        skip_damaged=skip_damaged,
    )
    _write(recipe, output, overwrite)


class Done(StrEnum):
    """What LeRobot's ``next.done`` means, see `LeRobotRecipe`."""

    TERMINATED = "terminated"
    ENDED = "ended"
    REWARDED = "rewarded"


@app.command("import-lerobot")
def import_lerobot(
    path: Annotated[str, typer.Argument(help="Directory of a LeRobot v3 data set, or its URI.")],
    output: Output,
    state_key: Annotated[list[str] | None, typer.Option(help="State column; several are joined.")] = None,
    action_key: Annotated[str, typer.Option(help="Action column.")] = "action",
    state_columns: Columns = None,
    next_done: Annotated[
        Done,
        typer.Option(
            help="What a true next.done means: the task has terminated; the recording has only ended; or the task has "
            "terminated where that step is rewarded, else its time was up."
        ),
    ] = Done.TERMINATED,
    scale_actions: Rescale = False,
    env: Env = None,
    skip_damaged: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Import a local LeRobot v3 data set. Images and videos are left out."""
    recipe = LeRobotRecipe(
        path=path,
        state_keys=state_key or ["observation.state"],
        action_key=action_key,
        state_columns=state_columns,
        next_done=next_done.value,
        rescale_actions=scale_actions,
        env=env,
        skip_damaged=skip_damaged,
    )
    _write(recipe, output, overwrite)


def _write(recipe: importing.ImportRecipe, output: Path, overwrite: bool) -> None:
    print(recipe.build(output, {}, overwrite=overwrite, workers=None))


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Directory of a data set, or its URI.")],
    horizon: Annotated[int, typer.Option("--horizon", "-H", min=1, help="Steps of a skill, to count windows.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    try_beta: Annotated[bool, typer.Option("--try-beta", help="Train skills for some seconds to suggest β.")] = False,
) -> None:
    """Check a data set and say what is in it, and what it asks for that the defaults are not."""
    from rllib_spirl.skills.advice import advise, advise_beta
    from rllib_spirl.skills.training import PretrainConfig

    data = DataSet.open(path)
    with stage("reading data"):
        frames = data.load()
        advice = [advise(data, frames)]
        facts = describe(data, frames, horizon)
    if try_beta:
        advice.append(advise_beta(data, PretrainConfig(horizon=horizon)))
    facts["suggested"] = {name: value for each in advice for name, value in each.settings.items()}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(title=facts["path"], show_header=False, title_justify="left")
    lengths, actions, states = facts["episode_length"], facts["action_range"], facts["state_range"]
    table.add_row("episodes", f"{facts['episodes']:,}")
    table.add_row("steps", f"{facts['steps']:,}")
    table.add_row("steps an episode", f"{lengths['min']} to {lengths['max']}, median {lengths['median']:g}")
    table.add_row(f"windows of {horizon}", f"{facts['windows']:,}, in {facts['long_enough']:,} episodes")
    table.add_row("state", f"{facts['state_dim']} wide, {min(states['min']):.4g} to {max(states['max']):.4g}")
    table.add_row("action", f"{facts['action_dim']} wide, {min(actions['min']):.4g} to {max(actions['max']):.4g}")
    table.add_row("reward an episode", f"{facts['mean_return']:.4g} on average")
    table.add_row("terminated", f"{facts['terminated_episodes']:,} of {facts['episodes']:,} episodes")
    table.add_row("stored as", f"{facts['dtype']}, {facts['fps']:g} steps/s, robot {facts['robot_type']}")
    table.add_row("fingerprint", facts["fingerprint"])
    console = Console(markup=False)
    console.print(table)
    for title, counts in (("subtask", facts["subtasks"]), ("task", facts["tasks"])):
        shown = Table(title_justify="left")
        shown.add_column(title)
        shown.add_column("episodes", justify="right")
        for name, count in list(counts.items())[:20]:
            shown.add_row(name, str(count))
        if len(counts) > 20:
            shown.add_row(f"… {len(counts) - 20} more", "")
        console.print(shown)
    for sentence in (sentence for each in advice for sentence in each.sentences):
        console.print(sentence, soft_wrap=True, highlight=False)


@app.command()
def render(
    source: Annotated[Path, typer.Argument(help="A recipe (.yaml), built if need be, or a data set's directory.")],
    episodes: Annotated[int, typer.Option(min=1, max=100, help="How many demonstrations.")] = 3,
    first: Annotated[int, typer.Option(min=0, help="Index of the first.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A .png contact sheet or an .mp4 or .gif video.", show_default="SOURCE.png"
        ),
    ] = None,
    env: Env = None,
    env_config: Annotated[str, typer.Option(help="Its arguments, as YAML, e.g. '{size: 20, maze: 7}'.")] = "{}",
    set_: Set = None,
) -> None:
    """Draw demonstrations from their recorded states, with the completed subtasks below the pictures."""
    from rllib_spirl.cli import session

    session.quiet(0)
    from rllib_spirl.cli.algorithms import check_env_name
    from rllib_spirl.evaluation.demonstrations import SUFFIXES, render_demonstrations
    from rllib_spirl.evaluation.pictures import VIDEO_FORMATS, suffix_of
    from rllib_spirl.evaluation.video import check_film

    is_recipe = source.suffix in (".yaml", ".yml")
    source = examples.find(source, examples.RECIPES) if is_recipe else source
    output = output or Path(f"{source.stem if is_recipe else source.resolve().name}.png")
    if suffix_of(output, SUFFIXES) in VIDEO_FORMATS:  # before a long build, not after it
        check_film(output)
    if is_recipe and env is not None:
        check_env_name(env, with_skills=False)
    if set_ and not is_recipe:
        raise UserError(f"--set changes a recipe, and {source} is none; leave it out")
    arguments = mapping(env_config, "--env-config", "{size: 20, maze: 7}")
    data = recipes.build(source, overrides=_overrides(set_ or [])) if is_recipe else DataSet.open(source)
    render_demonstrations(data, output, episodes=episodes, first=first, env=env, env_config=arguments)
    print(output)


def describe(data: DataSet, frames: Trajectories, horizon: int) -> dict[str, Any]:
    """What ``inspect`` tells, as JSON values. Raises UserError as `DataSet.windows` does."""
    lengths = np.diff(frames.episode_starts)
    tasks = Counter(frames.tasks[i] for i in frames.task_index[frames.episode_starts[:-1]])
    subtasks: Counter[str] = Counter()
    for task, count in tasks.items():
        for name in task.split(";"):
            subtasks[name.strip()] += count
    state, action = (data.statistics[name] for name in ("observation.state", "action"))
    return {
        "path": str(data),
        "episodes": data.num_episodes,
        "steps": data.num_frames,
        "episode_length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "horizon": horizon,
        "windows": len(data.windows(horizon)),
        "long_enough": int((lengths >= horizon).sum()),
        "state_dim": data.state_dim,
        "action_dim": data.action_dim,
        "state_range": {key: state[key] for key in ("min", "max")},
        "action_range": {key: action[key] for key in ("min", "max")},
        "mean_return": float(frames.rewards.sum(dtype=np.float64) / data.num_episodes),
        "terminated_episodes": int(frames.terminated[frames.episode_starts[1:] - 1].sum()),
        "tasks": dict(tasks.most_common()),
        "subtasks": dict(subtasks.most_common()),
        "dtype": data.features.get("observation.state", {}).get("dtype", "unknown"),
        "fps": data.info.get("fps", 0),
        "robot_type": data.info.get("robot_type") or "unknown",
        "env": data.ours.get("env"),
        "source": data.ours.get("source"),
        "fingerprint": data.fingerprint,
    }


def _overrides(pairs: list[str]) -> dict[str, Any]:
    return dict(parse_assignment(pair, "demonstrations=100") for pair in pairs)
