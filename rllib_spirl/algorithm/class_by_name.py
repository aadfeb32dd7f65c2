"""Checkpoints that name the class of their algorithm, which may change after them."""

import pickle
import pkgutil
from pathlib import Path
from typing import Any

from ray.rllib.utils.checkpoints import Checkpointable

from rllib_spirl.files import replacing
from rllib_spirl.locations import location


class ClassByName(Checkpointable):
    """For algorithms: in a trial of Tune their class is one that Ray derives from it, which cannot be imported.

    RLlib stores such a class with the names of all its methods, and a later version that lacks one of them could not
    read the checkpoint.
    """

    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        saved: str = super().save_to_path(path, **kwargs)
        folder, kind = location(saved), _importable(type(self))
        if isinstance(folder, Path) and kind not in (None, type(self)):
            made = {"class": kind, "ctor_args_and_kwargs": self.get_ctor_args_and_kwargs()}
            with replacing(folder / self.CLASS_AND_CTOR_ARGS_FILE_NAME) as file:
                file.write_bytes(pickle.dumps(made))
        return saved


def _importable(kind: type) -> type | None:
    """The class, or that of the same name which it derives from, if it can be imported."""
    try:
        found = pkgutil.resolve_name(f"{kind.__module__}:{kind.__qualname__}")
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) and issubclass(kind, found) else None
