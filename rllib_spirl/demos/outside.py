"""Recipes of demonstrations that outside benchmarks' own scripts give in their environments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rllib_spirl.data.importing import Recipe
from rllib_spirl.demos.ogbench_file import OGBenchFile
from rllib_spirl.demos.recording import RecordedRecipe
from rllib_spirl.envs.outside import METAWORLD, METAWORLD_LIMIT
from rllib_spirl.yaml_text import did_you_mean

# The share of cubes that are put on another one is drawn for each episode, from between these.
STACKING = {"cube-single": (0.0, 0.0), "cube-double": (0.0, 0.25), "scene": (0.5, 0.5), "puzzle-3x3": (0.5, 0.5)}
"""The scenes of OGBench in which play can be recorded."""


class OGBenchRecipe(RecordedRecipe):
    """Play in OGBench, as in its published data."""

    module = "rllib_spirl.demos.ogbench"
    extra = "ogbench"

    source: Literal["ogbench"]
    environment: str = Field(description="a scene, such as cube-double")
    episodes: int = Field(ge=1)
    steps: int = Field(1000, ge=1, description="of an episode")
    noise: float = Field(0.1, ge=0, le=1, description="of the motions, in units of the largest action")
    smoothing: float = Field(0.5, gt=0, description="how slowly the noise changes")
    fps: float = Field(20.0, gt=0, description="steps per second")
    robot_type: str = "ur5e"

    @field_validator("environment")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in STACKING:
            raise ValueError(f"play can be recorded in some environments only{did_you_mean(name, list(STACKING))}")
        return name

    @property
    def subject(self) -> str:
        return self.environment

    @property
    def env(self) -> str:
        return f"ogbench/{self.environment}-play-singletask-v0"

    @property
    def count(self) -> int:
        return self.episodes

    def variants(self) -> list[dict[str, Any]]:
        names = ("environment", "steps", "smoothing")
        return [{name: getattr(self, name) for name in names} | {"stacking": STACKING[self.environment]}]

    def accepts(self, task: dict[str, Any], demonstration: Any) -> bool:
        return demonstration.visible


class MetaWorldRecipe(RecordedRecipe):
    """Successes of Meta-World's scripted experts."""

    module = "rllib_spirl.demos.metaworld"
    extra = "metaworld"

    source: Literal["metaworld"]
    tasks: list[str] = Field(min_length=1, description="names such as drawer-open-v3")
    episodes: int = Field(ge=1, description="of each task")
    steps: int = Field(METAWORLD_LIMIT, ge=1, description="after which an expert has failed")
    fps: float = Field(80.0, gt=0, description="steps per second")
    robot_type: str = "sawyer"

    @field_validator("tasks")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in METAWORLD:
                raise ValueError(f"'{name}' is no task of Meta-World{did_you_mean(name, METAWORLD)}")
        if len(set(names)) < len(names):
            raise ValueError("a task is named twice")
        return names

    @property
    def subject(self) -> str:
        return "Meta-World"

    @property
    def env(self) -> str:
        return f"metaworld/{self.tasks[0]}"

    @property
    def count(self) -> int:
        return self.episodes * len(self.tasks)

    def variants(self) -> list[dict[str, Any]]:
        return [{"task": name, "steps": self.steps} for name in self.tasks]

    def accepts(self, task: dict[str, Any], demonstration: Any) -> bool:
        return demonstration.success


def ogbench_recipe(values: Mapping[str, Any], file: Path) -> type[Recipe]:
    """What a recipe of source ``ogbench`` asks for: a file to import, or play to record."""
    return OGBenchFile if "path" in values else OGBenchRecipe
