"""YAML as people write experiments: 3e-4 is a number, a key written twice is a mistake, nothing is ever evaluated."""

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

from rllib_spirl.errors import UserError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' appears twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, which PyYAML reads, wants "3.0e-4"; "3e-4" and "1e6" would be strings.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
# It also takes "9:39" for 9 times 60 and 39; here that is a text, such as a range of columns.
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first].insert(
        0, ("tag:yaml.org,2002:str", re.compile(r"^[-+]?[0-9][0-9_]*:[0-9_:]*(\.[0-9_]*)?$"))
    )


def parse(text: str, source: str) -> Any:
    """The value of one YAML document.

    Args:
        text: the document.
        source: what to call it in an error, e.g. a file name.

    Raises:
        UserError: it is not YAML, or a key appears twice in a mapping.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{source}:{where} is not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def parse_assignment(text: str, example: str, form: str = "key=value") -> tuple[str, Any]:
    """The key, perhaps with dots, and the value that an option ``--set key=value`` gives.

    Raises:
        UserError: It has not this ``form``, of which there is an ``example``, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(f"--set {text}: write --set {form}, e.g. --set {example}")
    return key.strip(), parse(value, f"--set {key}")


def mapping(text: str, option: str, example: str) -> dict[str, Any]:
    """The mapping that an option of a command gives.

    Raises:
        UserError: It is not YAML, or no mapping, of which there is an ``example``.
    """
    value = parse(text, option)
    if not isinstance(value, dict):
        raise UserError(f"{option}: give a mapping such as '{example}', not '{text}'")
    return value


def parse_file(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8 or not YAML.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a YAML file in it")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, [p.name for p in near])
        raise UserError(f"{path} does not exist{hint}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file (UTF-8 expected)") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def did_you_mean(name: object, known: list[str] | tuple[str, ...]) -> str:
    """``"; did you mean 'lr'?"``, or the whole list when it is short, or nothing. Case does not matter."""
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(lower), n=1, cutoff=0.55)
    if close:
        return f"; did you mean '{lower[close[0]]}'?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 24 else ""
