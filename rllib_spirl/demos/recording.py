"""Record scripted demonstrations in parallel processes; the result depends on the recipe only."""

import contextlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.episode import Episode
from rllib_spirl.data.importing import Recipe
from rllib_spirl.data.writer import TrajectoryWriter, check_place
from rllib_spirl.errors import UserError
from rllib_spirl.extras import optional
from rllib_spirl.files import replacing, writing
from rllib_spirl.progress import stage


class RecordedRecipe(Recipe):
    """Demonstrations that scripts record in an environment: what all of these have in common."""

    module: ClassVar[str]
    """The module whose ``demonstrate(**task, seed, noise)`` records one demonstration."""
    extra: ClassVar[str | None] = None
    """The extra of this package that it takes, called like what that installs."""

    seed: int = Field(0, ge=0)
    noise: float = Field(0.05, ge=0, le=1, description="of the actions, for diversity")
    max_attempts: int = Field(5, ge=1, description="tries for one demonstration before it is left out")
    robot_type: str = "unknown"

    @property
    def subject(self) -> str:
        """Whose demonstrations they are, for an error."""
        raise NotImplementedError

    @property
    def env(self) -> str:
        """The name of the environment whose states are recorded."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many demonstrations there are to be."""
        raise NotImplementedError

    @property
    def demonstrator(self) -> Any:
        """`module`, imported."""
        return importlib.import_module(self.module)

    def content(self) -> dict[str, Any]:
        return super().content() | {"demonstrator": self.demonstrator.VERSION}

    def build(self, output: Path, facts: dict[str, Any], *, overwrite: bool, workers: int | None) -> DataSet:
        if self.extra:
            optional(self.extra, self.extra)  # told at once, and not by every process
        return build(self, output, facts, overwrite=overwrite, workers=workers)

    def env_config(self) -> dict[str, Any]:
        """The settings that give the environment the states which are recorded."""
        return {}

    def variants(self) -> list[dict[str, Any]]:
        """What there is to demonstrate, each as the demonstrator's arguments besides seed and noise."""
        raise NotImplementedError

    def accepts(self, task: dict[str, Any], demonstration: Any) -> bool:
        """Whether a demonstration of ``task``, as the demonstrator returned it, belongs into the data."""
        raise NotImplementedError


@dataclass(frozen=True)
class Job:
    """One demonstration to record, by ``module``. ``task`` is one of the recipe's, ``seeds`` has one for each try."""

    module: str
    recipe: RecordedRecipe
    task: dict[str, Any]
    seeds: tuple[int, ...]
    file: Path


def plan(recipe: RecordedRecipe, parts: Path) -> list[Job]:
    """All demonstrations of a recipe. Each task comes once before any comes again."""
    tasks = recipe.variants()
    rng = np.random.default_rng(recipe.seed)
    drawn: list[int] = []
    while len(drawn) < recipe.count:
        drawn.extend(rng.permutation(len(tasks)).tolist())
    return [
        Job(
            module=recipe.module,
            recipe=recipe,
            task=tasks[drawn[i]],
            # Drawn from the place in the plan, so that neither the worker nor other demonstrations matter.
            seeds=tuple(np.random.SeedSequence([recipe.seed, i]).generate_state(recipe.max_attempts).tolist()),
            file=parts / f"{i:06d}",
        )
        for i in range(recipe.count)
    ]


def record(job: Job) -> bool:
    """Record one demonstration into ``<file>.npz``, or note in ``<file>.failed`` that every try failed."""
    module = importlib.import_module(job.module)
    for seed in job.seeds:
        demonstration = module.demonstrate(**job.task, seed=seed, noise=job.recipe.noise)
        if job.recipe.accepts(job.task, demonstration):
            _save(job.file.with_suffix(".npz"), demonstration.episode)
            return True
    job.file.with_suffix(".failed").touch()
    return False


def build(
    recipe: RecordedRecipe,
    output: Path,
    facts: dict[str, Any],
    *,
    overwrite: bool,
    workers: int | None,
) -> DataSet:
    """Record a recipe's demonstrations and write them as a data set at ``output``.

    An interrupted build goes on where it stopped, for what is recorded stays in a hidden folder beside ``output`` until
    then. The same recipe gives the same Parquet bytes for any number of workers. A demonstration that fails is tried
    again with its next seed, for the same task, and in the end left out.

    Args:
        recipe: What to record.
        output: The directory to make.
        facts: Where the data comes from, as JSON values.
        workers: Processes; None for one on each core that this process may use.
        overwrite: Whether to replace a data set that is there.

    Raises:
        UserError: When every demonstration failed, or ``output`` cannot be written.
    """
    parts = output.parent / f".{output.name}.parts-{facts['recipe_hash']}"
    jobs = plan(recipe, parts)
    check_place(output, overwrite=overwrite)  # before the long work, not after it
    with writing(f"{output}: cannot write there", "choose another output"):
        parts.mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if not (_done(job) or job.file.with_suffix(".failed").exists())]
    count = workers or len(os.sched_getaffinity(0))
    with (
        stage("recording demonstrations", len(jobs), done=len(jobs) - len(todo), into=output) as progress,
        # Closed at once after Ctrl-C, so that what has not begun is cancelled.
        contextlib.closing(_record_all(todo, min(count, len(todo)))) as results,
    ):
        for _ in results:
            progress.advance()
    recorded = [job for job in jobs if _done(job)]
    if not recorded:
        shutil.rmtree(parts, ignore_errors=True)
        raise UserError(f"all {len(jobs)} demonstrations failed; lower the noise (it is {recipe.noise:g})")
    facts = {**facts, "demonstrations_failed": len(jobs) - len(recorded)}
    with TrajectoryWriter(
        output, fps=recipe.fps, robot_type=recipe.robot_type, env=recipe.env, source=facts, overwrite=overwrite
    ) as writer:
        for job in recorded:
            writer.add(_load(job.file.with_suffix(".npz")))
    shutil.rmtree(parts, ignore_errors=True)
    return writer.data_set


def _record_all(jobs: list[Job], workers: int) -> Generator[bool, None, None]:
    if workers <= 1:
        yield from map(record, jobs)
        return
    # A fork server, since forking a process with Ray's or torch's threads may hang; it imports the package once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([jobs[0].module])
    with _one_thread():
        with _interrupt_ignored():
            forkserver.ensure_running()
        yield from _collect(jobs, ProcessPoolExecutor(workers, context, _ignore_interrupt))


def _collect(jobs: list[Job], pool: ProcessPoolExecutor) -> Generator[bool, None, None]:
    with pool:
        futures = [pool.submit(record, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a recording process was killed (out of memory?); start again with fewer --workers, what is recorded "
                "is kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra: there is one of them on each core."""
    previous = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = previous


def _ignore_interrupt() -> None:
    """Ctrl-C reaches the whole process group; only the parent acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """A process started inside ignores Ctrl-C from its first moment on. Handlers can be set in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _save(file: Path, episode: Episode) -> None:
    facts = {"terminated": episode.terminated, "truncated": episode.truncated, "task": episode.task}
    arrays: dict[str, Any] = {"states": episode.states, "actions": episode.actions, "rewards": episode.rewards}
    if episode.images is not None:
        arrays["images"] = episode.images
    with replacing(file) as new:
        np.savez(new, facts=json.dumps(facts), **arrays)


def _load(file: Path) -> Episode:
    with np.load(file, allow_pickle=False) as arrays:
        facts = json.loads(str(arrays["facts"]))
        return Episode(**{name: arrays[name] for name in arrays if name != "facts"}, **facts)


def _done(job: Job) -> bool:
    return job.file.with_suffix(".npz").exists()
