"""What the documentation shows: its commands, its programs and its files."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rllib_spirl import examples

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "offline_data" / "README.md", ROOT / "benchmarks" / "README.md"]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(rf"{_FENCED.pattern}|(?<=\n\n)((?: {{4}}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"[Tt]his is `([\w.]+)`[^`]*?\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """A page's code blocks in their order: the language, "" where it is commands, and the text."""
    for found in _BLOCK.finditer(page.read_text()):
        yield found[1] or "", found[2] or found[3]


def lines(commands: str) -> list[str]:
    """The command lines of a block, without comments."""
    whole = commands.replace("\\\n", " ").splitlines()
    return [shorn for line in whole if (shorn := re.sub(r"(^|\s+)#.*", "", line).strip())]


def commands_as_written(page: Path) -> list[str]:
    """The command lines of a page."""
    return [line for language, block in blocks(page) if not language for line in lines(block)]


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, as words."""
    return list(map(shlex.split, commands_as_written(page)))


def mentions(page: Path) -> list[str]:
    """What a page's sentences put between backticks."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", _FENCED.sub("", page.read_text()))]


def reader(page: Path, folder: Path) -> None:
    """Put into a folder what a page's reader has there: the repository's folders, and the files that the page shows."""
    for name in (examples.EXPERIMENTS, examples.RECIPES, "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for name, body in _SHOWN.findall(page.read_text()):
        (folder / name).write_text(body)


class Reader:
    """Runs commands as a shell in a folder does that is the home as well.

    Args:
        folder: The folder.
        variables: More of the shell's variables.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(folder), "RLLIB_SPIRL_HOME": str(folder / "home")}
        self.variables = os.environ | own | variables

    def run(self, command: str) -> str:
        """What it prints. Fails if it fails."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.variables[name] = value.replace("$PWD", str(self.folder))
            return ""
        ended = subprocess.run(command, shell=True, cwd=self.folder, env=self.variables, capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout + ended.stderr
