"""Optional packages, imported when they are first used."""

import importlib
from typing import Any

from rllib_spirl.errors import UserError


def optional(module: str, extra: str) -> Any:
    """A module of a package that only an extra of ours installs. Raises UserError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise UserError(f"{name} is not installed: pip install 'rllib_spirl[{extra}]'") from None
