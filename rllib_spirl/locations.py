"""Where data sets and skills are read from: local paths, or URIs of the file systems that pyarrow or fsspec know."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
from pyarrow import fs

from rllib_spirl.errors import UserError, one_line


@dataclass(frozen=True, order=True)
class Remote:
    """A file or folder at a URI, with those methods of `Path` that reading needs.

    Small and picklable: a worker opens the file system itself. pyarrow's own file systems (S3, GCS, Azure, HDFS) come
    first, then fsspec's. Every method that looks at the file system raises UserError when the URI's scheme is unknown
    or its file system cannot be reached, and OSError, as `Path` does, when a file cannot be read.
    """

    root: str
    """The URI that was given; its file system is opened once."""
    below: str = ""
    """A path below it."""

    def __str__(self) -> str:
        return joined(self.root, self.below)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.root, joined(self.below, name) if self.below else name)

    @property
    def name(self) -> str:
        return PurePosixPath(str(self).partition("?")[0]).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def resolve(self) -> "Remote":
        return self

    def exists(self) -> bool:
        return bool(self._kind() != fs.FileType.NotFound)

    def is_dir(self) -> bool:
        return bool(self._kind() == fs.FileType.Directory)

    def _kind(self) -> Any:
        filesystem, inner = self._place()
        return filesystem.get_file_info(inner).type

    def _place(self) -> tuple[fs.FileSystem, str]:
        filesystem, inner = _filesystem(self.root)
        return filesystem, joined(inner, self.below)

    def open(self) -> pa.NativeFile:
        """The file for reading, at any position."""
        filesystem, inner = self._place()
        return filesystem.open_input_file(inner)

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return bytes(file.read())

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def glob(self, pattern: str) -> list["Remote"]:
        """The files below that match, e.g. ``chunk-*/file-*.parquet``; none where there is no such folder."""
        filesystem, inner = self._place()
        root = PurePosixPath("/", inner)
        found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
        below = [PurePosixPath("/", info.path).relative_to(root) for info in found if info.type == fs.FileType.File]
        depth = len(PurePosixPath(pattern).parts)
        return [self / str(path) for path in below if len(path.parts) == depth and path.match(pattern)]


Location = Path | Remote


def location(path: str | Path | Remote) -> Location:
    """A local path or a ``file://`` URI as a `Path`, any other URI as a `Remote`. Looks at no file system."""
    text = str(path)
    if isinstance(path, Path | Remote) or "://" not in text:
        return Path(path).expanduser() if isinstance(path, str) else path
    parts = urlsplit(text)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Remote(text)


def find(path: str, places: Iterable[Path]) -> Location | None:
    """What ``path`` names: a URI as given, or a path in the first of these folders where it is; None if in none."""
    named = location(path)
    if isinstance(named, Remote):
        return named
    return next((folder / named for folder in places if (folder / named).exists()), None)


def absolute(path: str, places: Iterable[Path]) -> str:
    """What `find` finds, for processes of other working directories; a URI, and what is nowhere, as given."""
    found = find(path, places)
    return str(found.absolute()) if isinstance(found, Path) else path


def address(path: str | Path) -> str:
    """A path from the root on, with the home for ``~``, which Tune and other processes take; a URI as given."""
    return str(path) if "://" in str(path) else os.path.abspath(os.path.expanduser(path))


def nowhere(path: str, places: Iterable[Path]) -> str:
    """That a path is in none of these folders, for an error."""
    return f"{path} does not exist in {' or '.join(dict.fromkeys(str(folder.absolute()) for folder in places))}."


def addressed(path: str, directory: str, inner: str) -> str:
    """A path in the file system of ``directory``, which is ``inner`` there, as one who gives it names it."""
    if "://" not in directory:
        return path
    folder, mark, query = directory.partition("?")
    return f"{folder.rstrip('/')}{path.removeprefix(inner.rstrip('/'))}{mark}{query}"


def joined(folder: str, name: str) -> str:
    """What is called so in a folder: a path or a URI, the query of which stays at its end."""
    place, mark, query = folder.partition("?") if "://" in folder else (folder, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{query}" if name else folder


@cache
def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it."""
    try:
        try:
            return fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid:  # a scheme that pyarrow does not know
            filesystem, inner = fsspec.core.url_to_fs(uri)
            return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(inner)
    except (OSError, ValueError, ImportError) as error:
        reason = one_line(error)
        raise UserError(
            f"{uri} cannot be reached: {reason}. "
            "Check the URI and your access to it, or copy the folder to this machine."
        ) from None
