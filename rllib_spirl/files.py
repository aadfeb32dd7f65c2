"""Files that are whole whenever they are there, and folders on other file systems."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from rllib_spirl.errors import UserError
from rllib_spirl.locations import address


def check_writable(place: Path, remedy: str) -> None:
    """Raise UserError, which ends with a remedy, if a folder cannot be written to, or not be made at this place."""
    above = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{place}: cannot write there, as {above} is no folder of yours; {remedy}")


@contextmanager
def writing(what: str, remedy: str) -> Iterator[None]:
    """Around what writes files: where that cannot be done, it is a user's mistake.

    Args:
        what: The beginning of the error, as in "PLACE: cannot write there". The system's reason follows in brackets.
        remedy: Its end.

    Raises:
        UserError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:  # some libraries' have no errno, and so no strerror
        raise UserError(f"{what} ({error.strerror or error}); {remedy}.") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write to, which replaces ``path`` when the block ends without an error.

    It gets the permissions that the umask gives, also where a library writes files that nobody else can read, as
    safetensors does. Its name ends as ``path`` does, in lower case: some libraries choose a format by it.

    Raises:
        OSError: If there can be no such file, or no such name.
    """
    temporary = path.with_name(f".writing-{secrets.token_hex(4)}{path.suffix.lower()}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def local_copy(folder: str | Path, filesystem: fs.FileSystem | None = None) -> Iterator[Path]:
    """A folder where it is, if that is on this machine, else a copy of it that lasts as long as the block.

    Args:
        folder: A local path or a URI; or a path in ``filesystem``.
        filesystem: Where the folder is.
    """
    filesystem, path = _place(folder, filesystem)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as copy:
        fs.copy_files(path, copy, source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        yield Path(copy)


@contextmanager
def local_folder(folder: str | Path, filesystem: fs.FileSystem | None = None) -> Iterator[Path]:
    """A folder to write into: itself, if it is on this machine, else one whose files are copied there at the end.

    Args:
        folder, filesystem: As of `local_copy`. A local folder is made where it is missing.
    """
    filesystem, path = _place(folder, filesystem)
    if isinstance(filesystem, fs.LocalFileSystem):
        Path(path).mkdir(parents=True, exist_ok=True)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as copy:
        yield Path(copy)
        filesystem.create_dir(path)
        fs.copy_files(copy, path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)


def _place(folder: str | Path, filesystem: fs.FileSystem | None) -> tuple[fs.FileSystem, str]:
    """The file system that a folder is in, and its absolute path there."""
    if filesystem is not None:
        return filesystem, str(folder)
    found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(address(folder))
    return found
