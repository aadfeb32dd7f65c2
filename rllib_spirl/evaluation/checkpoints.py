"""Find RLlib's checkpoints, read what made them, and restore them in one process."""

import pickle
from collections.abc import Callable
from typing import Any

from pyarrow import fs
from ray.rllib.algorithms import Algorithm, AlgorithmConfig

from rllib_spirl.errors import UserError, one_line
from rllib_spirl.locations import address, addressed

_MARKER = "rllib_checkpoint.json"
_ARGUMENTS = "class_and_ctor_args.pkl"
# What reading a damaged checkpoint raises.
UNREADABLE = (OSError, EOFError, pickle.UnpicklingError, RuntimeError, KeyError, ValueError)


def locate(checkpoint: str) -> tuple[fs.FileSystem, str]:
    """The file system of a checkpoint of ``rllib train``, a directory or URI, and its path there.

    Raises:
        UserError: If it is not there or not a checkpoint; names the newest checkpoint below it, if any.
    """
    path = address(checkpoint)
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
        kind = filesystem.get_file_info(inner).type
        if kind == fs.FileType.NotFound:
            raise UserError(f"{checkpoint} does not exist.")
        if kind == fs.FileType.File:
            raise UserError(f"{checkpoint} is a file; name the checkpoint's directory.")
        if filesystem.get_file_info(f"{inner}/{_MARKER}").type == fs.FileType.File:
            return filesystem, inner
        below = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} cannot be read: {one_line(error)}") from None
    # A checkpoint's parts are marked like the whole, which lies above them.
    nested = {info.path.rpartition("/")[0]: info for info in below if info.base_name == _MARKER}
    whole = [info for folder, info in nested.items() if not any(folder.startswith(f"{other}/") for other in nested)]
    newest = max(whole, key=lambda info: (info.mtime_ns or 0, info.path), default=None)
    hint = f" (no {_MARKER} in it)."
    if newest:
        hint = f"; did you mean {addressed(newest.path.rpartition('/')[0], path, inner)}?"
    raise UserError(f"{checkpoint} is not a checkpoint of rllib train{hint}")


def made_by(filesystem: fs.FileSystem, path: str, checkpoint: str) -> tuple[type, dict[str, Any]]:
    """The algorithm's class, and the state of the config it was made with.

    RLlib stores both with pickle: read only checkpoints you trust.

    Raises:
        UserError: If the file is damaged, or the class is not installed here.
    """
    try:
        with filesystem.open_input_stream(f"{path}/{_ARGUMENTS}") as stream:
            stored = pickle.load(stream)
        return stored["class"], stored["ctor_args_and_kwargs"][0][0]
    except (ImportError, AttributeError) as error:
        raise UserError(f"{checkpoint} was made by code that is not installed here: {one_line(error)}") from None
    except (*UNREADABLE, IndexError, TypeError) as error:
        problem = f"{_ARGUMENTS} is missing or damaged: {one_line(error)}"
        raise UserError(f"{checkpoint}: {problem}; use another checkpoint.") from None


def restored_here(
    kind: type[Algorithm], state: dict[str, Any], checkpoint: str, change: Callable[[AlgorithmConfig], object]
) -> Algorithm:
    """The algorithm of a checkpoint, with all of its work in this process.

    Args:
        kind, state: What `made_by` tells.
        checkpoint: The directory or URI.
        change: What else is other in its config than it was.

    Raises:
        UserError: If the checkpoint is damaged.
    """
    config = AlgorithmConfig.from_state(state)
    config.env_runners(num_env_runners=0)
    config.learners(num_learners=0, num_gpus_per_learner=0)
    config.evaluation(evaluation_num_env_runners=0, evaluation_parallel_to_training=False)
    change(config)
    try:
        algorithm: Algorithm = kind.from_checkpoint(address(checkpoint), config=config)
    except UNREADABLE as error:
        raise UserError(f"{checkpoint} cannot be restored: {one_line(error)}") from None
    return algorithm
