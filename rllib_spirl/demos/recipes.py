"""Recipes of scripted demonstrations."""

from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rllib_spirl.data.recipe import one_of
from rllib_spirl.demos.recording import RecordedRecipe
from rllib_spirl.envs import BLOCK_STACKING, KITCHEN, MAZE
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import did_you_mean


class ScriptedRecipe(RecordedRecipe):
    """Demonstrations in the package's own environments."""

    recorded: ClassVar[str]
    """The name of the environment whose states are recorded."""

    source: Literal["scripted"]
    environment: str
    demonstrations: int = Field(ge=1)

    @property
    def subject(self) -> str:
        return self.environment

    @property
    def env(self) -> str:
        return self.recorded

    @property
    def count(self) -> int:
        return self.demonstrations


class KitchenRecipe(ScriptedRecipe):
    """Orders of kitchen subtasks."""

    module = "rllib_spirl.demos.kitchen"
    recorded = KITCHEN

    environment: Literal["kitchen"]
    subtasks: list[str] = Field(min_length=1, description="what orders are made of")
    order_length: int = Field(ge=1, description="subtasks in one demonstration")
    target: list[str] = Field(default=[], description="the held-out order: it is never demonstrated")
    target_together: bool = Field(
        default=True, description="whether one demonstration may hold all of the target's subtasks"
    )
    exclude: list[list[str]] = Field(default=[], description="no demonstrated order begins with one of these")
    velocities: bool = Field(default=False, description="record velocities too")

    @property
    def demonstrator(self) -> Any:
        """The kitchen's. Raises UserError for subtasks that it does not know."""
        module = super().demonstrator
        for name in self.subtasks:
            if name not in module.SUBTASKS:
                raise UserError(
                    f"subtask '{name}' is unknown in the {self.environment}{did_you_mean(name, list(module.SUBTASKS))}"
                )
        return module

    @field_validator("subtasks")
    @classmethod
    def _each_once(cls, subtasks: list[str]) -> list[str]:
        if len(set(subtasks)) < len(subtasks):
            raise ValueError("a subtask is named twice; name each once")
        return subtasks

    @model_validator(mode="after")
    def _consistent(self) -> "KitchenRecipe":
        for name in [*self.target, *(name for order in self.exclude for name in order)]:
            if name not in self.subtasks:
                raise ValueError(
                    f"'{name}' in target or exclude is not one of the subtasks{did_you_mean(name, self.subtasks)}"
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

    def env_config(self) -> dict[str, Any]:
        return {"velocities": self.velocities}

    def variants(self) -> list[dict[str, Any]]:
        return [{"order": order, "velocities": self.velocities} for order in self.orders()]

    def accepts(self, task: dict[str, Any], demonstration: Any) -> bool:
        # Held out is what happens, not only what was asked for.
        return set(task["order"]) <= set(demonstration.completed) and not self.excluded(demonstration.happened)


class BlockStackingRecipe(ScriptedRecipe):
    """Stacks of two blocks, one after the other."""

    module = "rllib_spirl.demos.block_stacking"
    recorded = BLOCK_STACKING

    environment: Literal["block_stacking"]
    blocks: int = Field(5, ge=2, le=12, description="in the scene")
    stacks: int = Field(2, ge=1, description="made in one demonstration")
    images: bool = Field(default=False, description="record pictures too, for a prior that sees them")

    @model_validator(mode="after")
    def _room(self) -> "BlockStackingRecipe":
        if self.blocks < 2 * self.stacks:
            raise ValueError(f"stacks = {self.stacks}: each takes two blocks; give {2 * self.stacks} or more")
        return self

    def env_config(self) -> dict[str, Any]:
        return {"blocks": self.blocks, "images": self.images}

    def variants(self) -> list[dict[str, Any]]:
        return [{"blocks": self.blocks, "stacks": self.stacks, "images": self.images}]

    def accepts(self, task: dict[str, Any], demonstration: Any) -> bool:
        return len(demonstration.completed) == task["stacks"]


class MazeRecipe(ScriptedRecipe):
    """Ways between random squares of many mazes."""

    module = "rllib_spirl.demos.maze"
    recorded = MAZE

    environment: Literal["maze"]
    size: int = Field(20, ge=10, le=40, description="squares along an edge of a maze")
    mazes: int = Field(500, ge=1, description="how many different ones")
    first_maze: int = Field(1000, ge=0, description="their first number; others are left for tests")
    images: bool = Field(default=False, description="record pictures too, for a prior that sees them")

    def env_config(self) -> dict[str, Any]:
        return {"size": self.size, "images": self.images}

    def variants(self) -> list[dict[str, Any]]:
        numbers = range(self.first_maze, self.first_maze + self.mazes)
        return [{"size": self.size, "maze": number, "images": self.images} for number in numbers]

    def accepts(self, task: dict[str, Any], demonstration: Any) -> bool:
        return bool(demonstration.success)


RECIPES: dict[str, type[ScriptedRecipe]] = {
    "kitchen": KitchenRecipe,
    "block_stacking": BlockStackingRecipe,
    "maze": MazeRecipe,
}


def scripted_recipe(values: Mapping[str, Any], file: Path) -> type[ScriptedRecipe]:
    """The recipe of the environment that ``values`` name. Raises UserError when there is none."""
    return RECIPES[one_of(RECIPES, "environment", values, file)]
