"""Build a data set from a recipe, or reuse the one built before."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rllib_spirl import paths
from rllib_spirl.data.d4rl_hdf5 import D4RLRecipe
from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.importing import Recipe
from rllib_spirl.data.lerobot import LeRobotRecipe
from rllib_spirl.data.minari import MinariRecipe
from rllib_spirl.errors import UserError, problem_in
from rllib_spirl.locking import sole_writer
from rllib_spirl.yaml_text import did_you_mean, parse_file

__all__ = ["SOURCES", "Recipe", "build", "one_of", "read_recipe", "recipe_hash"]

SOURCES: dict[str, Callable[[Mapping[str, Any], Path], type[Recipe]]] = {
    "minari": lambda values, file: MinariRecipe,
    "d4rl": lambda values, file: D4RLRecipe,
    "lerobot": lambda values, file: LeRobotRecipe,
}
"""What ``source`` may be in a recipe: the values of a recipe, and its file for an error, to what reads them.

Packages that make data add themselves, as `rllib_spirl.demos` does.
"""

# Settings that were added later. Without them a recipe is what it was before: what was built then is still found.
_LATER = ("images", "velocities", "skip_damaged", "rescale_actions", "task_key")


def read_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: The YAML file.
        overrides: Values by key, in place of the file's.

    Raises:
        UserError: When the file is missing or no YAML, or a key or value is wrong; with the nearest valid key.
    """
    path = Path(path)
    values = parse_file(path)
    if isinstance(values, dict):
        values = {**values, **(overrides or {})}
        if isinstance(values.get("path"), str) and "://" not in values["path"]:
            values["path"] = str(_resolve(Path(values["path"]).expanduser(), path.parent))
    return parse(values, path)


def parse(values: Any, file: Path) -> Recipe:
    """The recipe in ``values``, as read from ``file``.

    Raises:
        UserError: One line with the file, the key, what is wrong and, for a misspelt key or source, the nearest valid.
    """
    if not isinstance(values, dict):
        raise UserError(f"{file}: a recipe is a mapping with 'source' and what that source needs; see offline_data/")
    model = SOURCES[one_of(SOURCES, "source", values, file)](values, file)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = problem_in(error)
    key = problem.key
    if problem.kind == "extra_forbidden":
        message = f"unknown key '{key}'{did_you_mean(key, list(model.model_fields))}"
    elif problem.kind == "missing" or (key and problem.given is None):
        message = f"'{key}' is missing; add it, or pass --set {key}=..."
    else:
        message = f"{key} = {problem.given!r}: {problem.message}" if key else problem.message
    raise UserError(f"{file}: {message}")


def recipe_hash(recipe: Recipe) -> str:
    """8 hex digits over all that decides the data, see `Recipe.content`."""
    content = {key: value for key, value in recipe.content().items() if value or key not in _LATER}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def build(
    recipe_path: str | Path,
    *,
    output: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> DataSet:
    """Build the data set of a recipe, or open the one that was built from the same recipe before.

    Args:
        recipe_path: The YAML file.
        output: The directory to make; else the recipe's ``output``, else ``<home>/data/<name>-<recipe hash>``.
        overrides: Values by key, in place of the file's.
        workers: Processes for scripted demonstrations; None for one on each core.
        overwrite: Whether to build anew and replace a data set that is there.

    Raises:
        UserError: On a wrong recipe, missing source data, an ``output`` that holds something else, or invalid data.
    """
    recipe_path = Path(recipe_path)
    recipe = read_recipe(recipe_path, overrides)
    place = Path(output).expanduser() if output else place_of(recipe, recipe_path)
    if not overwrite and (found := built(recipe, place)) is not None:
        return found
    facts = {"recipe": recipe.content(), "recipe_hash": recipe_hash(recipe)}
    with sole_writer(place, f"building {place}"):
        if not overwrite and (found := built(recipe, place)) is not None:  # by the one waited for
            return found
        return recipe.build(place, facts, overwrite=overwrite, workers=workers)


def built(recipe: Recipe, place: Path) -> DataSet | None:
    """The data set at ``place`` if it was built from this recipe; None where it is still to be built.

    Raises:
        UserError: When something else is there, or a data set that is damaged or not whole.
    """
    if (place / "meta" / "info.json").exists():
        data = DataSet.open(place)
        if data.ours.get("source", {}).get("recipe_hash") == recipe_hash(recipe):
            data.check_whole()
            return data
    if place.exists():
        raise UserError(
            f"{place} exists, but not from this recipe; remove it, choose another output, or pass --overwrite"
        )
    return None


def place_of(recipe: Recipe, file: Path) -> Path:
    """Where a recipe's data set is built: at its ``output``, else below `paths.home`."""
    if recipe.output:
        return Path(recipe.output).expanduser()
    return paths.home() / "data" / f"{recipe.name or file.stem}-{recipe_hash(recipe)}"


def _resolve(path: Path, base: Path) -> Path:
    """A relative path means the working directory, else the recipe's directory."""
    return path if path.is_absolute() or path.exists() or not (base / path).exists() else base / path


def one_of(valid: Collection[str], key: str, values: Mapping[str, Any], file: Path) -> str:
    """The value of ``key``. Raises UserError, with the nearest, unless it is one of the valid ones."""
    value = values.get(key)
    if value not in valid:
        what = f"'{key}' is missing" if value is None else f"{key} '{value}' is unknown"
        raise UserError(f"{file}: {what}{did_you_mean(value, list(valid))}")
    return str(value)
