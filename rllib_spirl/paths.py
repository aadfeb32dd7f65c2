"""Where built data sets and skill checkpoints live unless told otherwise."""

import os
from pathlib import Path


def home() -> Path:
    """``$RLLIB_SPIRL_HOME``, else ``~/.cache/rllib_spirl``: jobs and clones share it."""
    return Path(os.environ.get("RLLIB_SPIRL_HOME") or Path.home() / ".cache" / "rllib_spirl")
