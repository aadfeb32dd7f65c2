"""A checkpoint of MetaSPiRL in tasks that it was not trained on: the curve over the first episodes in each."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from ray.rllib.algorithms import AlgorithmConfig

from rllib_spirl.envs.skill_env import make_skill_env, try_env
from rllib_spirl.envs.tasks import Task, canonical, task_name
from rllib_spirl.errors import UserError, one_line
from rllib_spirl.evaluation.checkpoints import UNREADABLE, locate, made_by
from rllib_spirl.files import replacing
from rllib_spirl.meta import MetaSPiRL
from rllib_spirl.meta.adaptation import score
from rllib_spirl.meta.fine_tuning import meet, relabelled

CURVES = "adaptation.json"
Curve = list[tuple[int, float]]
"""The number of the episode in the task, from 1 on, and its completed subtasks, or its return."""


class Told(Protocol):
    """Is called after each episode."""

    def __call__(self, task: Task, episode: int, score: float) -> None: ...


def check_tasks(checkpoint: str, tasks: Sequence[Task], *, trained_on_too: bool = False) -> list[Task]:
    """The tasks that are to be met, in their one form; without any given, the test tasks of the checkpoint.

    Args:
        checkpoint: Directory or URI of a checkpoint of MetaSPiRL.
        tasks: Plain data.
        trained_on_too: Whether tasks that it was trained on are wanted too.

    Raises:
        UserError: The checkpoint is none of MetaSPiRL; there is no such task in its environment; or it was trained on
            one.
    """
    state = _state(checkpoint)
    chosen = list(tasks) or list(state["test_tasks"])
    if not chosen:
        raise UserError(f"{checkpoint} has no test tasks: name one with --task.")
    with closing(try_env(state["env"], dict(state["env_config"] or {}))) as env:
        known = [canonical(env, task) for task in state["training_tasks"]]
        found = [canonical(env, task) for task in chosen]
    for task in found:
        if task in known and not trained_on_too:
            raise UserError(
                f"'{task_name(task)}' is a task that {checkpoint} was trained on; name another one, or add "
                "--trained-on-too."
            )
    return found


def adapt(
    checkpoint: str,
    tasks: Sequence[Task],
    *,
    episodes: int,
    seed: int = 0,
    exploring_episodes: int | None = None,
    fine_tune_after: int | None = None,
    with_demonstrations: bool = True,
    told: Told | None = None,
) -> dict[str, Curve]:
    """Meet each of the tasks with the checkpoint as it is, see `rllib_spirl.meta.fine_tuning.meet`.

    RLlib stores classes, configs and weights with pickle: load only checkpoints you trust.

    Args:
        checkpoint: Directory or URI of a checkpoint of MetaSPiRL.
        tasks: From `check_tasks`.
        episodes, seed, fine_tune_after: As for `meet`.
        exploring_episodes: The same; None for the checkpoint's own number.
        with_demonstrations: Whether fine-tuning replays the checkpoint's demonstrations, with the task's rewards.
        told: Called after each episode.

    Returns:
        By the tasks' names, their curves.

    Raises:
        UserError: If the checkpoint cannot be restored.
    """
    curves: dict[str, Curve] = {}
    algorithm: MetaSPiRL | None = None
    for task in tasks:
        if algorithm is None or fine_tune_after is not None:  # fine-tuning has changed it
            if algorithm is not None:
                algorithm.stop()
            algorithm = _restore(checkpoint)
        config = algorithm.config
        with closing(make_skill_env(algorithm.env_runner.config.env_config)) as env:
            learning = fine_tune_after is not None and fine_tune_after < episodes
            results = meet(
                algorithm,
                env,
                task,
                episodes=episodes,
                seed=seed,
                exploring_episodes=config.exploring_episodes if exploring_episodes is None else exploring_episodes,
                fine_tune_after=fine_tune_after,
                demonstrations=relabelled(algorithm, env, task) if learning and with_demonstrations else None,
            )
            curve = curves[task_name(task)] = []
            for number, result in enumerate(results, 1):
                curve.append((number, score(result)))
                if told is not None:
                    told(task, number, score(result))
    if algorithm is not None:
        algorithm.stop()
    return curves


def write_curves(directory: Path, method: str, seed: int, curves: dict[str, Curve]) -> Path:
    """Add curves to a folder's ``adaptation.json``: ``{method: {task: {seed: [[episode, score], …]}}}``.

    Raises:
        UserError: If the file cannot be written, or is another one.
    """
    file = directory / CURVES
    try:
        directory.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        for task, curve in curves.items():
            document.setdefault(method, {}).setdefault(task, {})[str(seed)] = curve
        with replacing(file) as new:
            new.write_text(json.dumps(document, indent=1))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} cannot be written: {one_line(error)}. Name another folder.") from None
    return file


def _state(checkpoint: str) -> dict[str, Any]:
    """The state of the config that a checkpoint of MetaSPiRL was made with."""
    kind, state = made_by(*locate(checkpoint), checkpoint)
    if not issubclass(kind, MetaSPiRL):
        raise UserError(f"{checkpoint} is a checkpoint of {kind.__name__}; expected one of MetaSPiRL.")
    return state


def _restore(checkpoint: str) -> MetaSPiRL:
    config = AlgorithmConfig.from_state(_state(checkpoint))
    config.env_runners(num_env_runners=0)
    config.learners(num_learners=0, num_gpus_per_learner=0)
    config.evaluation(evaluation_num_env_runners=0, evaluation_parallel_to_training=False)
    config.compile_updates = False
    path = checkpoint if "://" in checkpoint else str(Path(checkpoint).expanduser().absolute())
    try:
        algorithm: MetaSPiRL = MetaSPiRL.from_checkpoint(path, config=config)
    except UNREADABLE as error:
        raise UserError(f"{checkpoint} cannot be restored: {one_line(error)}") from None
    return algorithm
