"""A checkpoint that has learned from many tasks in tasks that it was not trained on: the first episodes in each."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
from ray.rllib.algorithms import Algorithm, AlgorithmConfig

from rllib_spirl.envs import TRIALS
from rllib_spirl.envs.skill_env import SkillEnv, try_env
from rllib_spirl.envs.tasks import Task, canonical, task_name
from rllib_spirl.envs.trials import EPISODES
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.adaptation_curves import Points
from rllib_spirl.evaluation.checkpoints import locate, made_by, restored_here
from rllib_spirl.evaluation.pictures import rendered
from rllib_spirl.evaluation.settings import in_evaluation
from rllib_spirl.evaluation.video import check_film, filming
from rllib_spirl.meta import MAML, MetaSPiRL
from rllib_spirl.meta.adaptation import episode_seeds, score
from rllib_spirl.meta.fine_tuning import FineTuning
from rllib_spirl.meta.meeting import check_possible, meet


class Told(Protocol):
    """Is called after each episode."""

    def __call__(self, task: Task, episode: int, score: float) -> None: ...


@dataclass(frozen=True)
class Adaptable:
    """A checkpoint that can adapt: of MetaSPiRL, of MAML, or of an algorithm of RLlib's on trials (RL²)."""

    checkpoint: str
    kind: type[Algorithm]
    config: dict[str, Any]
    """The state of its configuration."""

    @property
    def method(self) -> str:
        """What it is called in results."""
        return "RL²" if self._on_trials else self.kind.__name__

    @property
    def _on_trials(self) -> bool:
        return not issubclass(self.kind, MetaSPiRL | MAML)

    @property
    def trained_on(self) -> list[Task]:
        """As the experiment named them; of trials of the environment's own distribution none."""
        return list((self._env_config.get("tasks") if self._on_trials else self.config["training_tasks"]) or ())

    @property
    def test_tasks(self) -> list[Task]:
        """Likewise; of trials those of the evaluation that are not trained on."""
        if not self._on_trials:
            return list(self.config["test_tasks"])
        there = in_evaluation(self.config).get("env_config") or {}
        return [task for task in there.get("tasks") or () if task not in self.trained_on]

    def at_most(self, episodes: int) -> int:
        """How many of so many episodes there can be in a task: a trial has no more than those that it is trained in."""
        return min(episodes, int(self._env_config.get("episodes", EPISODES))) if self._on_trials else episodes

    @property
    def env(self) -> tuple[Any, dict[str, Any]]:
        """The environment that has the tasks, and its arguments."""
        if self._on_trials:
            return self._env_config["env"], dict(self._env_config.get("env_config") or {})
        return self.config["env"], dict(self._env_config)

    @property
    def _env_config(self) -> dict[str, Any]:
        return self.config.get("env_config") or {}


def adaptable(checkpoint: str) -> Adaptable:
    """Look at a checkpoint, a directory or URI.

    RLlib stores classes, configs and weights with pickle: load only checkpoints you trust.

    Raises:
        UserError: It is none that can adapt.
    """
    kind, config = made_by(*locate(checkpoint), checkpoint)
    if not issubclass(kind, MetaSPiRL | MAML) and config.get("env") != TRIALS:
        raise UserError(
            f"{checkpoint} is a checkpoint of {kind.__name__}; expected one of MetaSPiRL, of MAML, or of trials "
            f"({TRIALS})."
        )
    return Adaptable(checkpoint, kind, config)


def check_tasks(source: Adaptable, tasks: Sequence[Task], *, trained_on_too: bool = False) -> list[Task]:
    """The tasks that are to be met, each once, in their one form; without any given, the checkpoint's test tasks.

    Args:
        source: The checkpoint.
        tasks: Plain data.
        trained_on_too: Whether tasks that it was trained on are wanted too.

    Raises:
        UserError: There is no such task in its environment; or it was trained on one.
    """
    chosen = list(tasks) or source.test_tasks
    if not chosen:
        raise UserError(f"{source.checkpoint} has no test tasks: name one with --task.")
    with closing(try_env(*source.env)) as env:
        known = [canonical(env, task) for task in source.trained_on]
        found = [canonical(env, task) for task in chosen]
    for task in found:
        if task in known and not trained_on_too:
            raise UserError(
                f"'{task_name(task)}' is a task that {source.checkpoint} was trained on; name another one, or add "
                "--trained-on-too."
            )
    return [task for number, task in enumerate(found) if task not in found[:number]]


def adapt(
    source: Adaptable,
    tasks: Sequence[Task],
    *,
    episodes: int,
    seed: int = 0,
    exploring_episodes: int | None = None,
    told_by_demonstrations: bool = False,
    fine_tuning: FineTuning | None = None,
    follow_after: int | None = None,
    videos: Path | None = None,
    told: Told | None = None,
    keep: Callable[[dict[str, Points]], Any] | None = None,
) -> dict[str, Points]:
    """Meet each of the tasks with the checkpoint as it is.

    One of MetaSPiRL by belief and, if wanted, in another way later, see `rllib_spirl.meta.meeting.meet`; one of MAML
    with a step after every `adaptation_episodes`; a recurrent policy in one trial, which ends after as many episodes as
    those that it was trained in.

    Args:
        source: The checkpoint.
        tasks: From `check_tasks`.
        episodes, seed: How many in each, and of all random numbers.
        exploring_episodes: As for `meet`, and of MetaSPiRL only; None for the checkpoint's own number.
        told_by_demonstrations, fine_tuning, follow_after: As for `meet`, and of MetaSPiRL only.
        videos: Folder for a film of the last episode in each task, see `film_of`; of MetaSPiRL only.
        told: Called after each episode.
        keep: Called with the curve of each task, by the task's name, as soon as it is whole.

    Returns:
        By the tasks' names, their curves.

    Raises:
        UserError: If the checkpoint cannot be restored, options are not for its kind, or films cannot be made.
    """
    by_belief = issubclass(source.kind, MetaSPiRL)
    options = {
        "--exploring": exploring_episodes,
        "--told-by-demonstrations": told_by_demonstrations or None,
        "--fine-tune-after": fine_tuning,
        "--follow-after": follow_after,
        "--videos": videos,
    }
    if not by_belief and (given := [name for name, value in options.items() if value is not None]):
        raise UserError(
            f"{source.checkpoint} is a checkpoint of {source.method}: leave {given[0]} out, which is for MetaSPiRL."
        )
    if by_belief:
        asked = exploring_episodes, told_by_demonstrations, follow_after
        check_possible(AlgorithmConfig.from_state(source.config), *asked)  # before all of it is restored
    if not tasks:
        return {}
    if videos is not None:
        check_film(film_of(videos, tasks[0]))
        env, env_config = source.env
        with closing(try_env(env, {**env_config, "render_mode": "rgb_array"})) as drawn:
            drawn.reset(seed=seed)
            rendered(drawn)  # the last episode would be late to find out

    def scores(algorithm: Any, task: Task) -> Iterator[float]:
        if by_belief:
            film = None if videos is None else film_of(videos, task)
            return _by_belief(
                algorithm,
                task,
                film,
                episodes=episodes,
                seed=seed,
                exploring_episodes=exploring_episodes,
                told_by_demonstrations=told_by_demonstrations,
                fine_tuning=fine_tuning,
                follow_after=follow_after,
            )
        if issubclass(source.kind, MAML):
            results = algorithm.env_runner.meet(task, episodes, episode_seeds(seed, task))
            return (score(result) for result in results)
        return islice(_in_a_trial(algorithm, task), episodes)

    curves: dict[str, Points] = {}
    algorithm: Any = _restore(source, seed)
    try:
        for task in tasks:
            curve = curves[task_name(task)] = []
            with nullcontext() if fine_tuning is None else algorithm.restored_afterwards():
                for number, value in enumerate(scores(algorithm, task), 1):
                    curve.append((number, value))
                    if told is not None:
                        told(task, number, value)
            if keep is not None:
                keep({task_name(task): curve})
    finally:
        algorithm.stop()
    return curves


def _by_belief(
    algorithm: MetaSPiRL, task: Task, video: Path | None, *, episodes: int, **options: Any
) -> Iterator[float]:
    """The scores of `meet`, with a film of the last episode if a file for it is given."""
    made = algorithm.env_runner.config.env_config
    pictures = {} if video is None else {"render_mode": "rgb_array"}
    with ExitStack() as stack:
        low_level = try_env(made["env"], {**made["env_config"], **pictures})
        film = None if video is None else stack.enter_context(filming(low_level, video))
        if film is None:  # else it closes the environment
            stack.callback(low_level.close)
        env = SkillEnv(film or low_level, made["skill_checkpoint"], made["skill_bound"])
        results = meet(algorithm, env, task, episodes=episodes, **options)
        for number in range(1, episodes + 1):
            if film is not None:
                film.running, film.title = number == episodes, f"episode {number}"
            yield score(next(results))
        if film is not None:
            film.hold()


def film_of(videos: Path, task: Task) -> Path:
    """The file in a folder of films that shows a task, called like it: ``microwave, kettle.mp4``."""
    return videos / f"{re.sub(r'[/:*?<>|]+', '_', task_name(task))}.mp4"


def _in_a_trial(algorithm: Any, task: Task) -> Iterator[float]:
    """The returns of the episodes of a trial, with the most likely actions."""
    runner = algorithm.env_runner
    for env in runner.env.unwrapped.envs:
        env.unwrapped.tasks = [task]
    (trial,) = runner.sample(num_episodes=1, explore=False)
    measures = trial.get_infos(-1)["measures"]
    return (float(value) for value in measures.values())


def _restore(source: Adaptable, seed: int) -> Algorithm:
    def change(config: AlgorithmConfig) -> None:
        if not issubclass(source.kind, MetaSPiRL | MAML):
            # One trial, in an environment that can be reached.
            config.env_runners(num_envs_per_env_runner=1, gym_env_vectorize_mode=gym.VectorizeMode.SYNC)
            config.debugging(seed=seed)

    return restored_here(source.kind, source.config, source.checkpoint, change)
