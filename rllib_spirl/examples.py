"""The experiment files and data recipes that come with the package."""

import re
from pathlib import Path

from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import did_you_mean

EXPERIMENTS, RECIPES = "tuned_examples", "offline_data"
_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The folder that holds `EXPERIMENTS` and `RECIPES`: this package when it is installed, else its repository."""
    return _PACKAGE if (_PACKAGE / EXPERIMENTS).is_dir() else _PACKAGE.parent


def names() -> list[str]:
    """Of the packaged experiment files, without their ending."""
    return sorted(file.stem for file in (root() / EXPERIMENTS).glob("*.yaml"))


def named(name: str) -> Path:
    """The packaged experiment file of this name. Raises UserError, with the nearest, where there is none."""
    known = names()
    if name not in known:
        raise UserError(f"there is no example '{name}'{did_you_mean(name, known)}")
    return root() / EXPERIMENTS / f"{name}.yaml"


def find(path: str | Path, folder: str) -> Path:
    """A YAML file as given where it exists; else the one of the package's ``folder`` that it names, if there is one.

    Of `EXPERIMENTS` these are ``kitchen``, ``kitchen.yaml`` and ``tuned_examples/kitchen.yaml``.
    """
    path = Path(path)
    packaged = root() / folder / f"{path.stem}.yaml"
    named_so = str(path.parent) in (".", folder) and path.suffix in ("", ".yaml")
    return packaged if named_so and not path.exists() and packaged.exists() else path


def copy(name: str, folder: Path) -> list[Path]:
    """Write an example, and the packaged recipes that it names below ``RECIPES``, into a folder; the files written.

    Raises:
        UserError: If there is no such example, or one of the files exists.
    """
    example = named(name)
    text = example.read_text(encoding="utf-8")
    recipes = [file for file in sorted((root() / RECIPES).glob("*.yaml")) if f"{RECIPES}/{file.name}" in text]
    files = {folder / example.name: example} | {folder / RECIPES / recipe.name: recipe for recipe in recipes}
    for file in files:
        if file.exists():
            raise UserError(f"{file} exists; remove it, or name another folder with --output")
    for file, source in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return list(files)


def description(name: str) -> str:
    """The first sentence of the comment at the top of an example; empty where there is none."""
    lines = []
    for line in named(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return re.split(r"(?<=[^l]\.) (?=[A-Z])", " ".join(lines))[0]  # not after "et al."
