"""Where built data sets and skill checkpoints live unless told otherwise."""

import os
from pathlib import Path


def home() -> Path:
    """``$RLLIB_SPIRL_HOME``, else ``~/.cache/rllib_spirl``, absolute: jobs and clones share it."""
    return Path(os.environ.get("RLLIB_SPIRL_HOME") or "~/.cache/rllib_spirl").expanduser().absolute()
