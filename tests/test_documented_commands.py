"""The commands that the documentation shows: each is there, with its options and with the names that it takes."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ray.scripts.scripts import cli as ray_cli
from rich.text import Text

from rllib_spirl import examples
from rllib_spirl.cli import algorithms, experiment, rllib, spirl, training
from rllib_spirl.cli.prepare import read_section
from rllib_spirl.data.recipe import read_recipe
from rllib_spirl.yaml_text import parse, parse_file
from tests.documentation import PAGES, ROOT, commands, mentions, reader

APPS: dict[str, Any] = {name: typer.main.get_command(app) for name, app in (("rllib", rllib.app), ("spirl", spirl.app))}
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def resolved(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that words begin with, its name, and the words after it."""
    command, name, rest = APPS[words[0]], words[0], words[1:]
    while hasattr(command, "commands"):
        assert rest, f"{name}: which of {', '.join(command.commands)}?"
        assert rest[0] in command.commands, f"{name} has no command {rest[0]}"
        command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    return command, name, rest


def options(command: Any) -> set[str]:
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)}


def all_options(command: Any) -> set[str]:
    return options(command).union(*map(all_options, getattr(command, "commands", {}).values()))


def check(words: list[str]) -> None:
    """Fail unless it is a command, with names of files, settings and examples that there are."""
    match words[0]:
        case "rllib" | "spirl":
            command, name, rest = resolved(words)
            CHECKS.get(name, lambda _: None)(command.make_context(name, rest).params)
        case "make":
            assert {word for word in words[1:] if "=" not in word} <= set(TARGETS)
        case "pip":
            for extras in re.findall(r"\[(.*?)\]", " ".join(words)):
                assert set(extras.split(",")) <= set(EXTRAS)
        case "ray" if words[1] == "job":
            assert words[2] == "submit"
            check(words[words.index("--") + 1 :])
        case "ray":
            ray_cli.commands[words[1]].make_context("ray", words[2:])
        case "python" if words[1] == "-c":
            compile(words[2], "-c", "exec")
        case "python":
            source = Path(words[1]).read_text()
            if re.search("^from learning import .*command", source, re.MULTILINE):
                source += Path(words[1]).with_name("learning.py").read_text()
            for file in (word for word in words if "/" in word):
                assert Path(file).exists(), file
            for option in (word for word in words if word.startswith("--")):
                assert f'"{option}"' in source or option[2:].replace("-", "_") in source, option
        case "export":
            assert all("=" in word for word in words[1:])
        case program:
            raise AssertionError(f"the documentation shows a command of {program}, which is not checked here")


def check_experiments(given: dict[str, Any]) -> None:
    found = experiment.load(given["file"], overrides=given["set_"], stops=given["stop"], only=given["only"])
    for each in found:
        algorithms.validate(each, algorithms.param_space(each), without_skills=True)
        training.scheduler(each)
        if each.skills is not None:
            read_section(each.skills)


def check_recipe(given: dict[str, Any]) -> None:
    read_recipe(examples.find(given["recipe"], examples.RECIPES), dict(map(parse_pair, given["set_"] or ())))


def check_pretraining(given: dict[str, Any]) -> None:
    section = {"data": given["data"], "pretrain": dict(map(parse_pair, given["settings"] or ()))}
    read_section(section)
    if given["env"] is not None:
        algorithms.check_env_name(given["env"], with_skills=True)
    assert isinstance(parse(given["env_config"], "--env-config"), dict)


def check_adaptation(given: dict[str, Any]) -> None:
    """A task of the kitchen is one that its example is not trained on."""
    orders = parse_file(ROOT / "offline_data" / "kitchen_orders.yaml")
    for task in given["task"] or ():
        if "," in task:
            assert task.split(", ") in orders["test"], f"'{task}' is no test task of kitchen_meta.yaml"


def parse_pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, parse(value, key)


CHECKS = {
    "rllib train file": check_experiments,
    "rllib example get": lambda given: examples.named(given["name"]),
    "spirl adapt": check_adaptation,
    "spirl data build": check_recipe,
    "spirl pretrain": check_pretraining,
}
ALL = [(page, words) for page in PAGES for words in commands(page)]


def test_they_are_found() -> None:
    assert len(ALL) > 60
    assert ["spirl", "data", "inspect", "reacher-data", "--horizon", "5"] in [words for _, words in ALL]
    (long,) = (words for page, words in ALL if page.name == "skills.md" and words[1] == "pretrain")
    assert long[-1] == "{tasks: [microwave, kettle, light switch, slide cabinet]}", "over two lines"


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_a_command_is_one(page: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader(page, tmp_path)
    for given in (each[3:] for each in commands(page) if each[:3] == ["rllib", "example", "get"]):
        examples.copy(given[0], tmp_path / given[-1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    check(words)


@pytest.mark.parametrize(
    "line",
    [
        "rllib train file tuned_examples/kitchen.yaml --restore",
        "rllib train file tuned_examples/kitchn.yaml",
        "rllib train file tuned_examples/kitchen.yaml --set config.target_divergenc=2",
        "spirl data import-minari D4RL/kitchen/complete-v2",
        "spirl data build offline_data/kitchen_mixed.yaml --set demonstration=2",
        "spirl pretrain robot --set horizn=20",
        "spirl skill show skills/robot",
        "make tests",
        "pip install 'rllib_spirl[wandbs]'",
        "python benchmarks/kitchen.py --steeps 5",
        "curl wherever",
    ],
)
def test_a_command_that_is_none_is_found_out(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(Exception, match=r"."):  # Typer's own, or one of ours
        check(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_mentioned_exists(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    known = {"--help"}.union(*map(all_options, [*APPS.values(), ray_cli]))
    for text in mentions(page):
        words = text.split()
        if words[0] in APPS and len(words) > 1:
            command, _, rest = resolved(words)
            assert {word for word in rest if word.startswith("--")} <= options(command), text
        elif words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
            check(shlex.split(text))
        elif words[0] == "make" and len(words) > 1:
            assert words[1] in TARGETS, text
        elif words[0].startswith("--") and page.parent.name == "docs":
            assert words[0] in known, text
        for file in re.findall(r"(?:tuned_examples|offline_data|docs|tests)/\w+\.\w+", text):
            assert (ROOT / file).exists(), text


def test_every_example_and_extra_is_in_the_documentation() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for name in examples.names():
        assert f"{name}.yaml" in text or f"`{name.removeprefix('block_stacking')}`" in text, name
    for extra in EXTRAS.keys() - {"dev"}:
        assert re.search(rf"rllib_spirl\[[\w,]*{extra}[\w,]*\]", text), extra


def every_command(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield from every_command(command) if hasattr(command, "commands") else [command]


@pytest.mark.parametrize("program", [spirl, rllib], ids=["spirl", "rllib"])
def test_no_word_of_a_help_is_taken_for_markup(program: Any) -> None:
    """Brackets are: a default goes into `show_default`."""
    found = list(every_command(typer.main.get_command(program.app)))
    assert len(found) > 3
    for command in found:
        for text in [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]:
            assert Text.from_markup(text or "").plain == (text or ""), command.name
