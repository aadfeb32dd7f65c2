"""Families of tasks: environments in which one of many tasks can be set. A task is plain data, as YAML writes it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from rllib_spirl.errors import UserError, foreign

Task = Any


@runtime_checkable
class TaskSettable(Protocol):
    """An environment with many tasks. The methods are those of ``TaskSettableEnv``, which RLlib had until lately."""

    def sample_tasks(self, n_tasks: int) -> list[Task]:
        """Tasks drawn at random."""
        ...

    def set_task(self, task: Task) -> None:
        """Make it the task from the next reset on. Raises UserError if there is no such task."""
        ...

    def get_task(self) -> Task:
        """The task, in the one form in which equal tasks are equal."""
        ...


def settable(env: gym.Env) -> TaskSettable:
    """The environment whose task can be set, whatever wrappers are around it.

    Raises:
        UserError: If it has but one task.
    """
    inner = env.unwrapped
    if isinstance(inner, TaskSettable):
        return inner
    name = env.spec.id if env.spec else type(inner).__name__
    raise UserError(f"{name} has one task only: an environment of many has sample_tasks, set_task and get_task.")


def canonical(env: gym.Env, task: Task) -> Task:
    """The task in the one form in which equal tasks are equal; it is the environment's from the next reset on.

    Raises:
        UserError: If the environment has no such task.
    """
    family = settable(env)
    with foreign(f"{type(env.unwrapped).__name__} has no task {task!r}"):
        family.set_task(task)
    return family.get_task()


def is_number(task: Task, least: float, most: float) -> bool:
    """Whether a task is a number within bounds, as those of families with one dimension are."""
    number = isinstance(task, int | float | np.number) and not isinstance(task, bool)
    return bool(number and least <= task <= most)


def flat_boxes(name: str, observations: gym.Space, actions: gym.Space) -> tuple[Box, Box]:
    """Both spaces. Raises a UserError, which begins with a name, unless they are flat boxes."""
    if (
        isinstance(observations, Box)
        and isinstance(actions, Box)
        and len(observations.shape) == len(actions.shape) == 1
    ):
        return observations, actions
    raise UserError(f"{name} needs observations and actions that are flat boxes, not {observations} and {actions}.")


def check_split(env: gym.Env, training: Sequence[Task], test: Sequence[Task]) -> None:
    """Raise a UserError unless an environment has all of these tasks, each once, and none for training and for test."""
    known: dict[str, list[Task]] = {"training": [], "test": []}
    for part, tasks in (("training", training), ("test", test)):
        for task in tasks:
            if (found := canonical(env, task)) in known[part]:
                raise UserError(f"{part}: '{task_name(task)}' is there twice.")
            if part == "test" and found in known["training"]:
                raise UserError(f"test: '{task_name(task)}' is a training task: a test is of tasks never trained on.")
            known[part].append(found)


def task_name(task: Task) -> str:
    """A task for people and for the keys of results: ``microwave, kettle``."""
    return ", ".join(map(str, task)) if isinstance(task, list | tuple) else str(task)
