"""Makes the pages of the documentation site that are not written by hand. MkDocs calls `on_files` and the rest."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import click
import griffe
import typer.main
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from rllib_spirl import MAMLConfig, MetaSPiRLConfig, PretrainConfig, SPiRLConfig
from rllib_spirl.algorithm.checked_config import CheckedConfig
from rllib_spirl.cli import rllib, spirl
from rllib_spirl.cli.experiment import CHECKPOINT_KEYS, KEYS
from rllib_spirl.cli.prepare import SkillsSection
from rllib_spirl.data.d4rl_hdf5 import D4RLRecipe
from rllib_spirl.data.importing import Recipe
from rllib_spirl.data.lerobot import LeRobotRecipe
from rllib_spirl.data.minari import MinariRecipe
from rllib_spirl.demos.outside import MetaWorldRecipe, OGBenchRecipe
from rllib_spirl.demos.recipes import BlockStackingRecipe, KitchenRecipe, MazeRecipe

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages that lie elsewhere in the repository, and what they are called here.
ELSEWHERE = {
    "benchmarks/README.md": "benchmarks.md",
    "offline_data/README.md": "offline_data.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
RECIPES: dict[str, type[Recipe]] = {
    "source: scripted, environment: kitchen": KitchenRecipe,
    "source: scripted, environment: block_stacking": BlockStackingRecipe,
    "source: scripted, environment: maze": MazeRecipe,
    "source: ogbench": OGBenchRecipe,
    "source: metaworld": MetaWorldRecipe,
    "source: minari": MinariRecipe,
    "source: d4rl": D4RLRecipe,
    "source: lerobot": LeRobotRecipe,
}
# What links to these files means a page that is made.
MADE = {
    "docs/notebook.ipynb": "notebook.md",
    "rllib_spirl/algorithm/spirl_config.py": "settings.md#training",
    "rllib_spirl/skills/training.py": "settings.md#skill-training",
}


def on_files(files: Files, config: Any) -> Files:
    """Add what is made, and the pictures of the benchmarks."""
    made = {"settings.md": settings(), "commands.md": commands(), "notebook.md": notebook(DOCS / "notebook.ipynb")}
    made |= {name: (ROOT / path).read_text() for path, name in ELSEWHERE.items()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for picture in sorted((ROOT / "benchmarks" / "results").rglob("*")):
        if picture.suffix in (".png", ".gif", ".md"):
            name = str(picture.relative_to(ROOT / "benchmarks"))
            files.append(File.generated(config, name, content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to pages that lie elsewhere lead to their place here; what is no page of the site is no link."""
    source = next((path for path, name in ELSEWHERE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    folder = (ROOT / source).parent

    def replaced(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        path, hash_sign, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        file = (folder / path).resolve()
        name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else ""
        if name in MADE:
            return f"[{text}]({MADE[name]})"
        if name in ELSEWHERE:
            return f"[{text}]({ELSEWHERE[name]}{hash_sign}{anchor})"
        if name.startswith("benchmarks/results/") and file.suffix in (".png", ".gif", ".md"):
            return f"[{text}]({name.removeprefix('benchmarks/')})"
        return link[0] if file.is_relative_to(DOCS) else text

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", replaced, markdown)


def settings() -> str:
    """Every setting with its default, from the classes that hold them."""
    config = SPiRLConfig()
    own = ["gamma", "train_batch_size_per_learner", "rollout_fragment_length", "num_env_runners"]
    own += ["min_sample_timesteps_per_iteration", "evaluation_duration"]
    parts = [
        "# Settings",
        "## An experiment file\n\nKeys of an experiment; all but `run` may be left out.",
        _table(("key", "what it is"), [(f"`{name}`", wanted) for name, (_, wanted) in KEYS.items()]),
        f"Keys of `checkpoint_config` are {', '.join(f'`{name}`' for name in CHECKPOINT_KEYS)}, those of Ray Tune's "
        "`CheckpointConfig`; here `checkpoint_at_end` is true by default.",
        "## Training\n\nKeys of `config:` in an experiment file, and arguments of `SPiRLConfig.training`.",
        _arguments(SPiRLConfig),
        "Of RLlib's own settings, these have another default here:",
        _table(("setting", "default"), [(f"`{name}`", _value(getattr(config, name))) for name in own]),
        "## Learning to learn\n\nWhat `MetaSPiRL` has beside them, arguments of `MetaSPiRLConfig.training`.",
        _arguments(MetaSPiRLConfig),
        "Those of `MAML`, arguments of `MAMLConfig.training`:",
        _arguments(MAMLConfig),
        "## Skills\n\nThe section `skills:` of an experiment file.",
        _fields(SkillsSection),
        "## Skill training\n\nKeys of `skills.pretrain:`, of `spirl pretrain --set`, fields of `PretrainConfig`.",
        _fields(PretrainConfig),
        "## Recipes\n\nKeys of a data recipe, by what its source is.",
    ]
    for source, recipe in RECIPES.items():
        parts += [f"### `{source}`", _fields(recipe)]
    return "\n\n".join(parts) + "\n"


def _arguments(kind: type[CheckedConfig]) -> str:
    """The arguments of a configuration's ``training``, as its docstring tells them."""
    config = kind()
    documented = griffe.Docstring(inspect.getdoc(kind.training) or "", lineno=1).parse("google", warnings=False)
    rows = []
    for argument in next(section.value for section in documented if section.kind.value == "parameters"):
        names = [name for name in argument.name.split(", ") if not name.startswith("*")]
        rows += [(f"`{name}`", _value(getattr(config, name)), argument.description) for name in names]
    return _table(("setting", "default", "meaning"), rows)


def _fields(model: type[BaseModel]) -> str:
    """The fields of a class, with what it or its docstrings say of them."""
    said = {name: attribute.docstring.value for name, attribute in _attributes(model).items() if attribute.docstring}
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", default, field.description or said.get(name, "")))
    return _table(("setting", "default", "meaning"), rows)


def _attributes(model: type[BaseModel]) -> dict[str, griffe.Attribute]:
    found: dict[str, griffe.Attribute] = {}
    for parent in reversed(model.__mro__):
        if parent.__module__.startswith("rllib_spirl"):
            found |= griffe.load(f"{parent.__module__}.{parent.__name__}").attributes
    return found


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    return "none" if value is None else f"`{value!r}`" if isinstance(value, str) else f"`{value}`"


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    cells = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(str(c).replace("|", "\\|").split()) for c in row) + " |" for row in cells
    )


def commands() -> str:
    """Every command with its arguments and options, from the commands themselves."""
    parts = ["# Commands"]
    for name, app in (("rllib", rllib.app), ("spirl", spirl.app)):
        parts += _command(typer.main.get_command(app), name)
    return "\n\n".join(parts) + "\n"


def _command(command: Any, name: str) -> list[str]:
    context = click.Context(command, info_name=name)
    if hasattr(command, "commands"):
        return [part for sub, each in command.commands.items() for part in _command(each, f"{name} {sub}")]
    rows = []
    for parameter in command.get_params(context):
        if parameter.name == "help":
            continue
        record = parameter.get_help_record(context)
        shown, said = record or (parameter.make_metavar(context), getattr(parameter, "help", ""))
        rows.append((f"`{shown}`", said))
    return [f"## {name}", command.help or "", _table(("argument", "meaning"), rows)]


def notebook(file: Path) -> str:
    """A notebook as a page: its texts, and its code without what running it printed."""
    parts = []
    for cell in json.loads(file.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"
