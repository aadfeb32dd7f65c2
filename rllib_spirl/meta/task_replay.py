"""Replay of many tasks: one ring for each, and demonstrations with the rewards of all of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rllib_spirl.algorithm.offline import counting, read_transitions, skills_of, too_short, window_labels
from rllib_spirl.algorithm.replay_buffer import Batch, SkillReplay
from rllib_spirl.data import DataSet, Trajectories
from rllib_spirl.data.windows import window_starts
from rllib_spirl.envs.tasks import Task, settable, task_name
from rllib_spirl.errors import UserError
from rllib_spirl.files import replacing
from rllib_spirl.progress import track
from rllib_spirl.skills.model import SkillModel


class TaskReplay:
    """A `SkillReplay` of ``capacity`` transitions for each of some tasks; ``sized_by`` names the setting of it."""

    def __init__(
        self,
        tasks: Sequence[Task],
        capacity: int,
        state_dim: int,
        latent_dim: int,
        seed: int,
        sized_by: str = "replay_capacity",
    ) -> None:
        self.state_dim, self.latent_dim = state_dim, latent_dim
        self.of = [SkillReplay(capacity, state_dim, latent_dim, seed + index) for index in range(len(tasks))]
        for replay, task in zip(self.of, tasks, strict=True):
            # 90 and 90.0 are one task, and so are a list and a tuple.
            replay.sized_by = sized_by
            replay.labelled_for = task_name(json.loads(json.dumps(task, default=float), parse_int=float))

    def __len__(self) -> int:
        """Transitions of all tasks together."""
        return sum(map(len, self.of))

    def save(self, folder: Path) -> None:
        """Write one file for each task."""
        folder.mkdir(parents=True, exist_ok=True)
        for task, replay in enumerate(self.of):
            replay.save(folder / f"{task}.safetensors")

    def restore(self, folder: Path) -> None:
        """Read what `save` has written.

        Raises:
            UserError: As `SkillReplay.restore`; or if there were other tasks.
        """
        files = len(list(folder.glob("*.safetensors")))
        if files != len(self.of):
            raise UserError(f"{folder} holds transitions of {files} tasks, this run has {len(self.of)}.")
        for task, replay in enumerate(self.of):
            replay.restore(folder / f"{task}.safetensors")


class TaskDemonstrations(SkillReplay):
    """Demonstrations as skill transitions, with what each would have earned in each task.

    States and skills are there once, and the labels of T tasks beside them: ``task_rewards`` (W, T), NaN where the
    task would have been done before; ``task_terminated`` (W, T), after which a value is 0; and ``task_done`` (W, T),
    whether the task itself was completed. Unlike ``task_terminated``, it is 0 where only the recording stops, as in the
    agent's own transitions, of which contexts are made.

    Args:
        columns: All of these, in the order in which they were recorded.
        horizon: H: so many rows later begins the window that follows on one.
        seed: Of the sampling.
    """

    def __init__(self, columns: Batch, horizon: int, seed: int = 0) -> None:
        super().__init__(len(columns["z"]), columns["states"].shape[1], columns["z"].shape[1], seed)
        self.add(columns)
        self.horizon = horizon
        self.task_rewards, self.task_terminated = columns["task_rewards"], columns["task_terminated"]
        self.task_done = columns["task_done"]
        self._counting = [column.isfinite().nonzero()[:, 0] for column in self.task_rewards.T]

    def of_task(self, task: int) -> "TaskSamples":
        """The transitions before the task's end, with its rewards."""
        return TaskSamples(self, task, self._counting[task])

    def save(self, path: Path) -> None:
        super().save(path)
        with replacing(_labels(path)) as file:
            labels = {"rewards": self.task_rewards, "terminated": self.task_terminated, "done": self.task_done}
            save_file(labels | {"horizon": torch.tensor(self.horizon)}, file)

    @classmethod
    def load(cls, path: Path, state_dim: int, latent_dim: int) -> "TaskDemonstrations":
        """What `save` wrote. Raises UserError if a file is corrupt or has other dimensions."""
        shared = SkillReplay.load(path, state_dim, latent_dim)
        try:
            labels = load_file(_labels(path))
            columns = {f"task_{name}": labels[name] for name in ("rewards", "terminated", "done")}
            loaded = cls(shared._columns | columns, int(labels["horizon"]))
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{_labels(path)} cannot be read ({error}). Use another checkpoint.") from None
        loaded.source, loaded.labelled_for, loaded.generator = shared.source, shared.labelled_for, shared.generator
        return loaded


@dataclass(frozen=True)
class TaskSamples:
    """Demonstrations in one task."""

    demonstrations: TaskDemonstrations
    task: int
    counting: Tensor

    def __len__(self) -> int:
        return len(self.counting)

    def sample(self, count: int) -> Batch:
        """Transitions drawn uniformly, to learn values of."""
        chosen = torch.randint(len(self.counting), (count,), generator=self.demonstrations.generator)
        return self._rows(chosen, self.demonstrations.task_terminated)

    def sample_run(self, length: int, rows: int) -> Batch:
        """As `SkillReplay.sample_run`: windows that follow on each other, as an agent's skills do, to tell a task from.

        What terminates is the task alone.
        """
        start = torch.randint(len(self.counting), (1,), generator=self.demonstrations.generator)
        chosen = (start + self.demonstrations.horizon * torch.arange(rows)) % len(self.counting)
        return self._rows(chosen, self.demonstrations.task_done)

    def _rows(self, chosen: Tensor, terminated: Tensor) -> Batch:
        shared, rows = self.demonstrations, self.counting[chosen]
        return {name: column[rows] for name, column in shared._columns.items()} | {
            "rewards": shared.task_rewards[rows, self.task],
            "terminated": terminated[rows, self.task],
        }


def task_demonstrations(
    data: DataSet,
    model: SkillModel,
    env: gym.Env,
    tasks: Sequence[Task],
    capacity: int,
    seed: int = 0,
    skill_bound: float | None = None,
) -> TaskDemonstrations:
    """Every window of H steps in a data set, as `rllib_spirl.algorithm.offline.offline_replay` has it, for all tasks.

    Raises:
        UserError: As `offline_replay`; or if the environment cannot tell what recorded states would have earned.
    """
    relabel = getattr(env.unwrapped, "relabel", None)
    if relabel is None:
        raise UserError(
            f"{data}: the environment has no relabel(states), so that rewards of demonstrations are those of one task. "
            "Set offline_fraction to 0."
        )
    family = settable(env)

    def labelled(
        part: Trajectories, model: SkillModel, env: gym.Env, generator: torch.Generator, state_dim: int
    ) -> Batch:
        horizon = model.config.horizon
        starts = window_starts(part.episode_starts, horizon)
        found: dict[str, list[Tensor]] = {"rewards": [], "terminated": [], "done": []}
        for task in track(tasks, "rewards of demonstrations in each task", total=len(tasks), watched_only=True):
            family.set_task(task)
            relabelled = part.relabel(relabel)
            counts = counting(relabelled, starts, horizon)
            last, labels = window_labels(relabelled, starts[counts], horizon)
            labels["done"] = torch.from_numpy(relabelled.terminated[last].astype(np.float32))
            for name, columns in found.items():
                columns.append(torch.full((len(starts),), torch.nan if name == "rewards" else 1.0))
                columns[-1][torch.from_numpy(counts)] = labels[name]
        shared = skills_of(part, model, starts, starts + horizon - 1, generator, state_dim)
        none = torch.zeros(len(starts))  # of what is the tasks'
        shared |= {"rewards": none, "terminated": none}
        return shared | {f"task_{name}": torch.stack(columns, 1) for name, columns in found.items()}

    parts = list(read_transitions(data, model, env, capacity, seed, skill_bound, labelled))
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for index, task in enumerate(tasks):
        if columns["task_rewards"][:, index].isnan().all():
            raise too_short(data, model.config.horizon, f" in task {task}")
    return TaskDemonstrations(columns, model.config.horizon, seed)


def _labels(path: Path) -> Path:
    return path.with_stem(f"{path.stem}_labels")
