"""Where trials write: a folder on a local disk or in an object store, behind one set of calls."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from equipoise.platform.errors import StorageError, UnreachableError

SCHEMES = ("file", "s3", "gs")
SECRETS = ("access_key", "secret_key", "session_token")
CHUNK = 64 * 1024**2  # bytes in flight of one file: large enough for a link's full speed, small beside a model
# What object stores say when nothing can be done with them, in a person's words; anything else is passed on.
REASONS = (
    (r"NO_SUCH_BUCKET|bucket.*(does not exist|NOT_FOUND)", "there is no such bucket: create it first"),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|PERMISSION_DENIED"
        r"|UNAUTHENTICATED|[Aa]uthenticat",
        "no permission: check the credentials in the environment and the rights of their owner",
    ),
    (r"NETWORK_CONNECTION|UNAVAILABLE|CURL|curlCode", "the server cannot be reached"),
)


@dataclass(frozen=True)
class Place:
    """A folder or file on a local disk, in S3 (and what speaks its protocol) or in Google Cloud Storage.

    Made with :meth:`at`. Credentials come from the environment alone, so a place can be stored and shown.

    Attributes:
        scheme: ``file``, ``s3`` or ``gs``.
        path: absolute path, or bucket and key.
        query: options of the file system as pyarrow reads them, e.g. ``region=eu-west-1``.
    """

    scheme: str
    path: str
    query: str = ""

    @classmethod
    def at(cls, where: Where) -> Place:
        """The place that a path or a URI names.

        Raises:
            StorageError: for an unknown scheme, a URI without a bucket, or one that carries credentials.
        """
        if isinstance(where, Place):
            return where
        if isinstance(where, Path) or not re.match(r"(\w[\w+.-]*://|(file|s3|gs):)", where):
            return cls("file", os.path.abspath(where))
        parts = urlsplit(where)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if parts.scheme not in SCHEMES:
            raise StorageError(f"storage {shown!r} has scheme {parts.scheme!r}; expected a path, file:, s3: or gs:")
        if "@" in parts.netloc or any(k in SECRETS for k in parse_qs(parts.query, keep_blank_values=True)):
            raise StorageError(
                f"storage {shown!r} carries credentials, which every record would show: leave them out and set them "
                "in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)"
            )
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
                raise StorageError(f"storage {where!r} is no absolute path of this machine; expected file:///folder")
            return cls("file", os.path.abspath(unquote(parts.path)))
        if not parts.netloc:
            raise StorageError(f"storage {where!r} names no bucket; expected {parts.scheme}://bucket/folder")
        return cls(parts.scheme, unquote(parts.netloc + parts.path).rstrip("/"), parts.query)

    def __str__(self) -> str:
        if self.scheme == "file":
            return self.path
        return f"{self.scheme}://{quote(self.path)}" + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> Place:
        return replace(self, path=f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Place:
        """The folder this is in."""
        return replace(self, path=str(PurePosixPath(self.path).parent))

    @property
    def local(self) -> Path | None:
        """Its path on this machine, None in an object store."""
        return Path(self.path) if self.scheme == "file" else None

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system that :attr:`path` is on.

        Raises:
            StorageError: if the options are wrong, or the bucket's region cannot be found out.
        """
        if self.scheme == "file":
            return fs.LocalFileSystem()
        with self._told("opened"):
            return _open(self.scheme, self.path.partition("/")[0], self.query)

    # ---- reading

    def names(self) -> list[str]:
        """Names of what the folder holds, sorted; none where there is no folder.

        Raises:
            StorageError: if it cannot be read: an unreachable store never looks like an empty one.
        """
        with self._told("read"):
            try:
                found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            except NotADirectoryError:
                return []
        return sorted(i.base_name for i in found)

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        with self._told("read"):
            return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def read(self) -> bytes:
        """Content of the file.

        Raises:
            FileNotFoundError: if there is none.
            StorageError: if it cannot be read.
        """
        with self._told("read"), self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    @contextlib.contextmanager
    def fetched(self) -> Iterator[Path]:
        """The file or folder on this machine: itself on a local disk, a copy that is removed afterwards elsewhere.

        Raises:
            FileNotFoundError: if it does not exist.
            StorageError: if it cannot be read.
        """
        if self.local is not None:
            if not self.local.exists():
                raise FileNotFoundError(self.path)
            yield self.local
            return
        with tempfile.TemporaryDirectory(prefix="equipoise-") as temporary:
            copy = Path(temporary) / self.name
            with self._told("read"):
                info = self.filesystem.get_file_info(self.path)
                if info.type == fs.FileType.NotFound:
                    raise FileNotFoundError(self.path)
                if info.type == fs.FileType.Directory:
                    copy.mkdir()
                fs.copy_files(self.path, str(copy), source_filesystem=self.filesystem, chunk_size=CHUNK)
            yield copy

    # ---- writing

    def write(self, content: bytes | str) -> None:
        """Write a file, whole or not at all; replaces one of this name.

        Raises:
            StorageError: if it cannot be written.
        """
        data = content.encode() if isinstance(content, str) else content
        with self._told("written"):
            if self.local is None:
                with self.filesystem.open_output_stream(self.path) as stream:
                    stream.write(data)
                return
            with _beside(self.local) as new:
                new.write_bytes(data)
                _sync(new)
                os.replace(new, self.local)

    @contextlib.contextmanager
    def put(self, last: str) -> Iterator[Path]:
        """A local folder to fill; at the end its files are here, in place of what was here before.

        On a local disk the folder appears under its name with all its files at once. In an object store files can
        only come one by one, so ``last`` is written after all the others: readers must look for it first.

        Args:
            last: the file that says that all others are there.

        Raises:
            StorageError: if it cannot be written.
        """
        with self._told("written"):
            if self.local is not None:
                with _beside(self.local) as content:
                    content.mkdir()
                    yield content
                    for path in content.iterdir():
                        _sync(path)
                    if self.local.exists():
                        shutil.rmtree(self.local)
                    os.replace(content, self.local)
                return
            with tempfile.TemporaryDirectory(prefix="equipoise-") as temporary:
                yield Path(temporary)
                self.remove(last)
                for path in sorted(Path(temporary).iterdir(), key=lambda p: (p.name == last, p.name)):
                    target = f"{self.path}/{path.name}"
                    # One thread: Arrow's uploads from several at once can hang.
                    fs.copy_files(
                        str(path),
                        target,
                        destination_filesystem=self.filesystem,
                        chunk_size=CHUNK,
                        use_threads=False,
                    )

    def remove(self, first: str) -> None:
        """Remove the folder, if there is one; ``first`` goes first, so that nobody reads what is half gone."""
        with self._told("removed"):
            for delete, path in (
                (self.filesystem.delete_file, f"{self.path}/{first}"),
                (self.filesystem.delete_dir, self.path),
            ):
                with contextlib.suppress(FileNotFoundError):
                    delete(path)

    def set_aside(self, ending: str, first: str) -> None:
        """Give the folder another name, in place of what had it; in an object store it is removed."""
        if self.local is None:
            self.remove(first)
            return
        with self._told("renamed"):
            other = self.local.with_name(self.local.name + ending)
            shutil.rmtree(other, ignore_errors=True)
            os.replace(self.local, other)

    def check(self) -> None:
        """Find out now whether trials will be able to write here.

        Raises:
            StorageError: if not, with the reason.
        """
        mark = self / f".writable-{os.getpid()}"
        mark.write("")
        with self._told("written"):
            self.filesystem.delete_file(mark.path)

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            if done == "read" and isinstance(error, FileNotFoundError):
                raise
            said = str(error).splitlines()[0]
            if "AWS Error" in said or "google::" in said:
                why = next((words for pattern, words in REASONS if re.search(pattern, said)), None)
                if why is not None:
                    raise UnreachableError(f"{self} cannot be {done}: {why}") from error
            elif isinstance(error, OSError) and error.errno:
                # Arrow puts a sentence of its own where others put the system's words.
                own = error.strerror is None or "Detail: [errno" in error.strerror
                said = os.strerror(error.errno) if own else str(error.strerror)
            raise StorageError(f"{self} cannot be {done}: {said[:200]}") from error


Where = Place | Path | str


@functools.lru_cache(maxsize=16)
def _open(scheme: str, bucket: str, query: str) -> fs.FileSystem:
    """One connection for all places of a bucket."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}" + (f"?{query}" if query else ""))[0]


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path on the same disk, to be moved to ``target`` in one step; what is left of it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as temporary:
        yield Path(temporary) / target.name


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())


@dataclass(frozen=True)
class Paths:
    """Where a trial reads.

    Attributes:
        data: folder that the manifests' paths are relative to.
        cache: folder of the clip caches.
    """

    data: Path
    cache: Path
