"""What a recipe may say, and one-line errors for what it may not."""

import difflib
from collections.abc import Collection, Iterable
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rllib_spirl.errors import UserError


class _Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, description="of the built data set; else the recipe's file name")
    description: str = ""
    output: Path | None = Field(None, description="where to build; else below the package's home directory")
    fps: float = Field(10.0, gt=0, description="steps per second")


class ScriptedRecipe(_Recipe):
    """Demonstrations by the package's own scripted demonstrators: what all of these have in common."""

    source: Literal["scripted"]
    environment: str
    demonstrations: int = Field(ge=1)
    seed: int = Field(0, ge=0)
    noise: float = Field(0.05, ge=0, le=1, description="of the actions, for diversity")
    max_attempts: int = Field(5, ge=1, description="tries for one demonstration before it is left out")
    robot_type: str = "unknown"

    def tasks(self) -> list[dict[str, Any]]:
        """What there is to demonstrate, each as the demonstrator's arguments besides seed and noise."""
        raise NotImplementedError

    def accepts(self, task: dict[str, Any], completed: list[str]) -> bool:
        """Whether a demonstration of ``task`` that completed this, in this order, belongs into the data."""
        raise NotImplementedError


class KitchenRecipe(ScriptedRecipe):
    """Orders of kitchen subtasks."""

    environment: Literal["kitchen"]
    subtasks: list[str] = Field(min_length=1, description="what orders are made of")
    order_length: int = Field(ge=1, description="subtasks in one demonstration")
    target: list[str] = Field([], description="the held-out order: it is never demonstrated")
    target_together: bool = Field(True, description="whether one demonstration may hold all of the target's subtasks")
    exclude: list[list[str]] = Field([], description="no demonstrated order begins with one of these")
    velocities: bool = Field(False, description="record velocities too")

    @model_validator(mode="after")
    def _consistent(self) -> "KitchenRecipe":
        for name in [*self.target, *(name for order in self.exclude for name in order)]:
            if name not in self.subtasks:
                raise ValueError(
                    f"'{name}' in target or exclude is not one of the subtasks{nearest(name, self.subtasks)}"
                )
        if [] in self.exclude:
            raise ValueError("an empty order in exclude excludes everything; remove it")
        if self.order_length > len(self.subtasks):
            raise ValueError(f"order_length = {self.order_length}, but there are {len(self.subtasks)} subtasks")
        if not self.orders():
            raise ValueError("target and exclude leave no order to demonstrate")
        return self

    def excluded(self, order: Iterable[str]) -> bool:
        """Whether an order is, or begins with, one that is held out, or holds a target that must not be whole."""
        order = list(order)
        if self.target and not self.target_together and set(self.target) <= set(order):
            return True
        held_out = [*self.exclude, *([self.target] if self.target else [])]
        return any(order[: len(prefix)] == prefix for prefix in held_out)

    def orders(self) -> list[tuple[str, ...]]:
        """All orders of ``order_length`` subtasks that are not held out."""
        return [order for order in permutations(self.subtasks, self.order_length) if not self.excluded(order)]

    def tasks(self) -> list[dict[str, Any]]:
        return [{"order": order, "velocities": self.velocities} for order in self.orders()]

    def accepts(self, task: dict[str, Any], completed: list[str]) -> bool:
        # Held out is what happens, not only what was asked for.
        return set(task["order"]) <= set(completed) and not self.excluded(completed)


class BlockStackingRecipe(ScriptedRecipe):
    """Stacks of two blocks, one after the other."""

    environment: Literal["block_stacking"]
    blocks: int = Field(5, ge=2, le=12, description="in the scene")
    stacks: int = Field(2, ge=1, description="made in one demonstration")
    images: bool = Field(False, description="record pictures too, for a prior that sees them")

    @model_validator(mode="after")
    def _room(self) -> "BlockStackingRecipe":
        if self.blocks < 2 * self.stacks:
            raise ValueError(f"stacks = {self.stacks}: each takes two blocks; give {2 * self.stacks} or more")
        return self

    def tasks(self) -> list[dict[str, Any]]:
        return [{"blocks": self.blocks, "stacks": self.stacks, "images": self.images}]

    def accepts(self, task: dict[str, Any], completed: list[str]) -> bool:
        return len(completed) == task["stacks"]


class MinariRecipe(_Recipe):
    """A Minari data set; see ``rllib_spirl.data.minari.read``."""

    source: Literal["minari"]
    dataset: str
    root: Path | None = None
    download: bool = True
    observation_key: str = "observation"
    state_columns: str | None = None
    task: str | None = None


class D4RLRecipe(_Recipe):
    """A D4RL HDF5 file; see ``rllib_spirl.data.d4rl_hdf5.read``."""

    source: Literal["d4rl"]
    path: Path
    state_columns: str | None = None
    task: str | None = None
    rescale_actions: bool = False
    env: str | None = None


class LeRobotRecipe(_Recipe):
    """A local LeRobot v3 data set; see ``rllib_spirl.data.lerobot.read``."""

    source: Literal["lerobot"]
    path: Path
    state_keys: list[str] = Field(["observation.state"], min_length=1)
    action_key: str = "action"
    state_columns: str | None = None
    rescale_actions: bool = False
    env: str | None = None


Recipe = ScriptedRecipe | MinariRecipe | D4RLRecipe | LeRobotRecipe
_SCRIPTED: dict[str, type[ScriptedRecipe]] = {"kitchen": KitchenRecipe, "block_stacking": BlockStackingRecipe}
_IMPORTED: dict[str, type[Recipe]] = {"minari": MinariRecipe, "d4rl": D4RLRecipe, "lerobot": LeRobotRecipe}


def nearest(word: str, valid: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or the valid words where none is near."""
    valid = list(valid)
    close = difflib.get_close_matches(word, valid, n=1)
    return f" (did you mean '{close[0]}'?)" if close else f" (valid: {', '.join(valid)})"


def parse(values: Any, file: Path) -> Recipe:
    """The recipe in ``values``, as read from ``file``.

    Raises:
        UserError: one line with the file, the key, what is wrong and, for a misspelt key or source, the nearest valid.
    """
    if not isinstance(values, dict):
        raise UserError(f"{file}: a recipe is a mapping with 'source' and what that source needs; see offline_data/")
    source = _one_of(["scripted", *_IMPORTED], "source", values, file)
    model = _SCRIPTED[_one_of(_SCRIPTED, "environment", values, file)] if source == "scripted" else _IMPORTED[source]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
    # A misspelt key also leaves its right spelling missing: tell of the misspelling.
    problem = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    key = ".".join(str(part) for part in problem["loc"])
    wrong = problem["type"]
    if wrong == "extra_forbidden":
        message = f"unknown key '{key}'{nearest(key, model.model_fields)}"
    elif wrong == "missing" or (key and problem["input"] is None):
        message = f"'{key}' is missing; add it, or pass --set {key}=..."
    elif key:
        message = f"{key} = {problem['input']!r}: {problem['msg']}"
    else:
        message = problem["msg"].removeprefix("Value error, ")
    raise UserError(f"{file}: {message}")


def _one_of(valid: Collection[str], key: str, values: dict[str, Any], file: Path) -> str:
    value = values.get(key)
    if value not in valid:
        what = f"'{key}' is missing" if value is None else f"{key} '{value}' is unknown"
        raise UserError(f"{file}: {what}{nearest(str(value), valid)}")
    return str(value)
