"""What all algorithms over many tasks do with the lists of tasks in their configuration."""

from typing import Any

import numpy as np
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_spirl.envs.tasks import task_name


def check_task_lists(config: Any) -> None:
    """Raise ValueError unless a configuration has training tasks, none of which is a test task as well."""
    name = config.algo_class.__name__
    if not config.training_tasks:
        config._value_error(f"{name} needs `training_tasks`: add a `tasks:` section with `training: [...]`.")
    for key in ("training_tasks", "test_tasks"):
        if not isinstance(getattr(config, key), list | tuple):
            config._value_error(f"`{key}` must be a list of tasks, got {getattr(config, key)!r}.")
    for task in config.test_tasks:
        if task in config.training_tasks:
            config._value_error(f"`test_tasks`: '{task_name(task)}' is a training task.")


class KeepsTurns(Checkpointable):
    """For an algorithm whose training tasks take `Turns`, ``_turns``: its checkpoints tell whose turn it is."""

    _turns: "Turns"

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(*args, **kwargs)
        state["meta"] = self._turns.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "meta" in state:
            self._turns.set_state(state["meta"])


class Turns:
    """Which task is next: every one has its turn, in an order drawn anew each time.

    Args:
        tasks: How many there are.
        random: Draws the orders.
    """

    def __init__(self, tasks: int, random: np.random.Generator) -> None:
        self._tasks, self._random = tasks, random
        self._left: list[int] = []

    def next(self) -> int:
        """The index of the next task."""
        if not self._left:
            self._left = self._random.permutation(self._tasks).tolist()
        return self._left.pop()

    def get_state(self) -> dict[str, Any]:
        """What decides which tasks come next, the state of the random numbers among it."""
        return {"random": self._random.bit_generator.state, "next_tasks": list(self._left)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on as those of `get_state`."""
        self._random.bit_generator.state = state["random"]
        self._left = list(state["next_tasks"])
