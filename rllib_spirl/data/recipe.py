"""Build a data set from a recipe, or reuse the one built before."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rllib_spirl import paths
from rllib_spirl.data import d4rl_hdf5, importing, lerobot, minari, scripted
from rllib_spirl.data.recipe_models import (
    D4RLRecipe,
    LeRobotRecipe,
    MinariRecipe,
    Recipe,
    ScriptedRecipe,
    nearest,
    parse,
)
from rllib_spirl.data.schema import read_info
from rllib_spirl.errors import UserError

__all__ = ["build", "read_recipe", "recipe_hash"]

_UNHASHED = {"name", "description", "output"}  # they do not change the data


def read_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: the YAML file.
        overrides: values by key, in place of the file's.

    Raises:
        UserError: when the file is missing or no YAML, or a key or value is wrong (with the nearest valid
        key).
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        near = nearest(path.name, (file.name for file in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such recipe{near}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as YAML: {reason}") from error
    if isinstance(values, dict):
        values = {**values, **(overrides or {})}
        if isinstance(values.get("path"), str):
            values["path"] = str(_resolve(Path(values["path"]).expanduser(), path.parent))
    return parse(values, path)


def recipe_hash(recipe: Recipe) -> str:
    """8 hex digits over all that decides the data: the recipe's values and the state of local files it names."""
    content: dict[str, Any] = recipe.model_dump(mode="json", exclude=_UNHASHED)
    for later in ("images", "velocities"):
        if content.get(later) is False:
            del content[later]  # as it was before recipes had it: what was built then is still found
    if isinstance(recipe, ScriptedRecipe):
        content["demonstrator"] = getattr(scripted.demonstrator(recipe), "VERSION", 1)
    if isinstance(recipe, D4RLRecipe | LeRobotRecipe):
        file = recipe.path if isinstance(recipe, D4RLRecipe) else recipe.path / "meta" / "info.json"
        if file.exists():
            stat = file.stat()
            content["state"] = [stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def build(
    recipe_path: str | Path,
    *,
    output: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    show_progress: bool = True,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Build the data set of a recipe, or return the one that was built from the same recipe before.

    Args:
        recipe_path: the YAML file.
        output: directory to make; else the recipe's ``output``, else ``<home>/data/<name>-<recipe hash>``.
        overrides: values by key, in place of the file's.
        workers: processes for scripted demonstrations; None for one on each core.
        overwrite: replace a data set at ``output`` that was built from another recipe.

    Returns:
        The directory of the data set.

    Raises:
        UserError: on a wrong recipe, missing source data, an ``output`` that holds something else, or invalid data.
    """
    recipe_path = Path(recipe_path)
    recipe = read_recipe(recipe_path, overrides)
    digest = recipe_hash(recipe)
    name = recipe.name or recipe_path.stem
    place = Path(output or recipe.output or paths.home() / "data" / f"{name}-{digest}")
    if _built_from(place) == digest:
        return place
    if place.exists() and not overwrite:
        raise UserError(
            f"{place} exists, but not from this recipe; remove it, choose another output, or pass --overwrite"
        )
    facts = {"recipe": recipe.model_dump(mode="json", exclude=_UNHASHED), "recipe_hash": digest}
    if isinstance(recipe, ScriptedRecipe):
        parts = place.parent / f".{place.name}.parts-{digest}"
        return scripted.build(
            recipe, place, parts, facts, workers=workers, overwrite=overwrite, show_progress=show_progress
        )
    source = _open(recipe)
    source.facts.update(facts)
    return importing.write(source, place, overwrite=overwrite, show_progress=show_progress)


def _open(recipe: MinariRecipe | D4RLRecipe | LeRobotRecipe) -> importing.Source:
    options = recipe.model_dump(exclude={*_UNHASHED, "source", "dataset", "path"})
    if isinstance(recipe, MinariRecipe):
        return minari.read(recipe.dataset, **options)
    if isinstance(recipe, D4RLRecipe):
        return d4rl_hdf5.read(recipe.path, **options)
    del options["fps"]  # LeRobot data sets say it themselves
    return lerobot.read(recipe.path, **options)


def _built_from(place: Path) -> str | None:
    """The recipe hash of the data set at ``place``; None where there is no such data set."""
    if not (place / "meta" / "info.json").exists():
        return None
    return read_info(place).get("rllib_spirl", {}).get("source", {}).get("recipe_hash")


def _resolve(path: Path, base: Path) -> Path:
    """A relative path means the working directory, else the recipe's directory."""
    return path if path.is_absolute() or path.exists() or not (base / path).exists() else base / path
