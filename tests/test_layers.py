"""The order of the package's layers, read from the imports themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import rllib_spirl

PACKAGE = Path(rllib_spirl.__file__).parent
# From the lowest up: a layer knows those before it. Modules beside them, such as errors.py, lie below all layers.
LAYERS = ("data", "skills", "envs", "demos", "algorithm", "meta", "evaluation", "cli")


def imports(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it, relative to the package: "data.columns"."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("rllib_spirl.") for name in names if name.startswith("rllib_spirl."))


def height(name: str) -> int:
    """The layer that a module or file belongs to, counted from 1; 0 for those below all layers."""
    first = name.split(".")[0].split("/")[0]
    return LAYERS.index(first) + 1 if first in LAYERS else 0


def test_every_folder_is_a_layer() -> None:
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()} == set(LAYERS)


def test_no_import_points_up() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    arrows = [(str(file.relative_to(PACKAGE)), name) for file in files for name in imports(file)]
    assert len(arrows) > 200  # they were found
    assert [arrow for arrow in arrows if height(arrow[1]) > height(arrow[0])] == []
