"""Results on this machine's disk that are whole at any moment, and going on from them.

Tune copies its state and its checkpoints to the storage path in place, and deletes old checkpoints file by file. A
process that is killed meanwhile, or a disk that is full, would leave a torn state, from which nothing goes on.
"""

import json
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs
from ray.train._internal.storage import get_fs_and_path
from ray.tune import Callback, Checkpoint, CheckpointConfig

from rllib_spirl.algorithm.checkpoint_files import SKILLS_FOLDER
from rllib_spirl.errors import UserError
from rllib_spirl.files import replacing
from rllib_spirl.locations import location
from rllib_spirl.skills.checkpoint import CARD

_DELETED = ".deleted"


class _WholeFile:
    """A file for writing that appears under its name when it is closed, unless writing failed."""

    def __init__(self, path: Path) -> None:
        self._whole = ExitStack()
        self._file = self._whole.enter_context(replacing(path)).open("wb")

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._discard(error)  # here: who failed to write may not close
            raise

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._file.close()
        except OSError as error:  # what was buffered found no room
            self._discard(error)
            raise
        self._whole.close()

    def _discard(self, error: OSError) -> None:
        with suppress(OSError):  # it comes back out
            self._whole.__exit__(type(error), error, error.__traceback__)


class _WholeFiles(fs.FSSpecHandler):
    """The local disk, on which files appear and folders disappear at once."""

    def __init__(self) -> None:
        super().__init__(LocalFileSystem())

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        return pa.PythonFile(_WholeFile(Path(path)), mode="w")

    def delete_dir(self, path: str) -> None:
        place = Path(path)
        doomed = place.with_name(f".{place.name}{_DELETED}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(place, doomed)
        shutil.rmtree(doomed)


def storage_arguments(storage_path: str) -> dict[str, Any]:
    """The arguments of ``tune.RunConfig`` that say where results go: whole files only, where that is a local disk."""
    found, inner = get_fs_and_path(storage_path)
    if not isinstance(found, fs.LocalFileSystem):  # object stores do not show a file before it is complete
        return {"storage_path": storage_path}
    return {"storage_path": inner, "storage_filesystem": fs.PyFileSystem(_WholeFiles())}


def check_state(directory: str) -> None:
    """Refuse to resume from a torn state: Tune would begin anew, in silence.

    Raises:
        UserError: Tune's newest state in an experiment's directory is not readable.
    """
    _state(*get_fs_and_path(directory))


def skills_of_all_trials(directory: str) -> str | None:
    """Skills that a run to resume holds itself, in a checkpoint of each of its trials; None if one has none.

    Raises:
        UserError: as `check_state`.
    """
    cards = sorted(str(card) for card in location(directory).glob(f"*/checkpoint_*/{SKILLS_FOLDER}/{CARD}"))
    for trial, _ in _state(*get_fs_and_path(directory))["trial_data"]:
        name = f"_{json.loads(trial)['trial_id']}_"  # in the name of its folder
        if not any(name in card for card in cards):
            return None
    return cards[-1].replace(f"/{CARD}", "") if cards else None


def _state(found: fs.FileSystem, inner: str) -> Any:
    names = [info.path for info in found.get_file_info(fs.FileSelector(inner)) if _is_state(info.base_name)]
    newest = max(names)  # their names are dates
    try:
        with found.open_input_stream(newest) as stream:
            return json.loads(stream.read())
    except (OSError, ValueError) as error:
        raise UserError(
            f"--resume: {newest} is not readable ({error}). Remove it to go on from the state before it, if there is "
            "one; or train under another experiment name"
        ) from None


def resumable(directory: str) -> bool:
    """Whether Tune has left a state in an experiment's directory that a run can go on from."""
    found, inner = get_fs_and_path(directory)
    return any(_is_state(info.base_name) for info in found.get_file_info(fs.FileSelector(inner, allow_not_found=True)))


def _is_state(name: str) -> bool:
    return name.startswith("experiment_state-") and name.endswith(".json")


class FromNewestCheckpoint(Callback):
    """Lets trials of a killed run go on from their newest whole checkpoint, with this command's settings of checkpoints
    and failures.

    Tune's state may be older than its checkpoints and name one that was deleted to make room for newer ones. Its trials
    have the settings of the first run.
    """

    def __init__(self, checkpoint_config: CheckpointConfig, max_failures: int) -> None:
        self._checkpoint_config, self._max_failures = checkpoint_config, max_failures
        self._done = False

    def on_step_begin(self, iteration: int, trials: list, **unused: Any) -> None:
        if self._done:
            return
        self._done = True
        for trial in trials:
            storage = trial.storage
            selector = fs.FileSelector(storage.trial_fs_path, allow_not_found=True)
            listed = storage.storage_filesystem.get_file_info(selector)
            for info in listed:
                if info.base_name.endswith(_DELETED):  # killed meanwhile
                    storage.storage_filesystem.delete_dir(info.path)
            trial.max_failures = self._max_failures
            manager = trial.run_metadata.checkpoint_manager
            manager._checkpoint_config = self._checkpoint_config
            latest = manager._latest_checkpoint_result
            if latest is None or _exists(latest.checkpoint):
                continue
            manager._checkpoint_results = [r for r in manager._checkpoint_results if _exists(r.checkpoint)]
            there = sorted(info.path for info in listed if info.base_name.startswith("checkpoint_"))
            if not there:
                continue
            # An older one was deleted after a newer one was whole; the newest of several may have been cut off.
            chosen = there[-2:][0]
            latest.checkpoint = Checkpoint(chosen, filesystem=storage.storage_filesystem)
            manager._checkpoint_results.append(latest)
            storage.current_checkpoint_index = int(chosen.rpartition("_")[2])


def _exists(checkpoint: Any) -> bool:
    return bool(checkpoint.filesystem.get_file_info(checkpoint.path).type == fs.FileType.Directory)
