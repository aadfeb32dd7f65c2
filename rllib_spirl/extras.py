"""Optional packages, imported when they are first used."""

import importlib
import warnings
from typing import Any

from rllib_spirl.errors import UserError

# RLlib imports dm_control, which OGBench brings, where there is one, and that looks for a screen. Who draws without one
# is told by `rllib_spirl.envs.rendering` what to do.
warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")


def optional(module: str, extra: str) -> Any:
    """A module of a package that only an extra of ours installs. Raises UserError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise UserError(f"{name} is not installed: pip install 'rllib_spirl[{extra}]'") from None
