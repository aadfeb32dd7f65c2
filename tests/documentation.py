"""What the documentation shows: its commands, its programs and its files."""

import re
import shlex
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


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, as words."""
    return [shlex.split(line) for language, block in blocks(page) if not language for line in lines(block)]


def mentions(page: Path) -> list[str]:
    """What a page's sentences put between backticks."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", _FENCED.sub("", page.read_text()))]


def reader(page: Path, folder: Path) -> None:
    """Put into a folder what a page's reader has there: the repository's folders, and the files that the page shows."""
    for name in (examples.EXPERIMENTS, examples.RECIPES, "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for name, body in _SHOWN.findall(page.read_text()):
        (folder / name).write_text(body)
