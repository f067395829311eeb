"""Reads an installation's files without a trace: no link is followed, and no time of access is changed."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from mcpkeep.protocol.upgrade.names import is_skipped
from mcpkeep.protocol.upgrade.origin import Local
from mcpkeep.protocol.upgrade.plan import Mode, Version

__all__ = ["Found", "Special", "blob_id", "find_files", "other_endings", "read_bytes", "read_local"]

_CHUNK = 1 << 20
# Larger files are hashed as they are; nobody checks out such a text with other line endings.
_WHOLE = 64 * 1024 * 1024
_QUIET = getattr(os, "O_NOATIME", 0)
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Found(NamedTuple):
    """What stands at a path: something to plan with, a folder, or what cannot be planned."""

    path: str
    """Relative to the root, with `/`."""
    kind: Literal["file", "link", "folder"]


class Special(Exception):
    """Something that is neither file, folder nor link, or cannot be read; `path` and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path!r} {reason}")
        self.path = path


def find_files(root: Path, part: str, problems: list[str]) -> Iterator[Found]:
    """Everything under a part, folders before what is in them; none where the part is not there.

    What upstream's installer leaves out is passed over, and so are the temporary files of a change that was
    interrupted. What cannot be planned is named in `problems`.
    """
    here = ""
    for name in part.split("/"):
        here = f"{here}/{name}" if here else name
        try:
            found = os.lstat(root / here)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            problems.append(f"{here!r} is no folder; put a real one in its place")
            return
    yield from _find(root, part, problems)


def read_local(
    root: Path, path: str, *, algorithm: str, known: Callable[[str], bool] = lambda _: False
) -> Local | None:
    """A file's or link's version; None where neither stands there.

    `algorithm` is the repository's: sha1 or sha256. Where an id of its bytes as they are is `known`, its
    forms with other line endings are not worked out. Raises Special where it cannot be read.
    """
    try:
        here = os.path.join(root, path)
        found = os.lstat(here)
        if stat.S_ISLNK(found.st_mode):
            target = os.fsencode(os.readlink(here))
            oid = blob_id(target, algorithm)
            return Local(Version(oid, "120000", len(target)), (oid,), (len(target),))
        if stat.S_ISDIR(found.st_mode):
            return None
        mode: Mode = "100755" if found.st_mode & 0o100 else "100644"
        with _opened(here) as fd:
            size = os.fstat(fd).st_size
            if size > _WHOLE:
                oid = _stream_id(fd, size, algorithm)
                return Local(Version(oid, mode, size), (oid,), (size,))
            data = _read(fd, size)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Special(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    oid = blob_id(data, algorithm)
    forms = [data, *(() if known(oid) else other_endings(data))]
    ids = (oid, *(blob_id(form, algorithm) for form in forms[1:]))
    return Local(Version(oid, mode, len(data)), ids, tuple(map(len, forms)))


def read_bytes(root: Path, path: str) -> bytes:
    """A file's bytes. Raises Special where it cannot be read."""
    try:
        with _opened(os.path.join(root, path)) as fd:
            return _read(fd, os.fstat(fd).st_size)
    except OSError as error:
        raise Special(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def blob_id(data: bytes, algorithm: str) -> str:
    """Git's object id of a file's bytes."""
    return hashlib.new(algorithm, b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


def other_endings(data: bytes) -> Iterator[bytes]:
    """The same text with the line endings that a checkout may have changed: LF alone, then CRLF alone."""
    if b"\n" not in data or b"\0" in data:
        return
    plain = data.replace(b"\r\n", b"\n")
    if plain != data:
        yield plain
    full = plain.replace(b"\n", b"\r\n")
    if full != data:
        yield full


def _find(root: Path, folder: str, problems: list[str]) -> Iterator[Found]:
    try:
        with _opened(os.path.join(root, folder)) as fd, os.scandir(fd) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            kinds = [(entry.name, *_kind(entry)) for entry in entries]
    except OSError as error:
        problems.append(f"{folder!r} cannot be read: {(error.strerror or str(error)).lower()}")
        return
    for name, kind, reason in kinds:
        path = f"{folder}/{name}"
        if is_skipped(name) or (name.endswith(".tmp") and ".mcpkeep-" in name):
            continue
        if kind is None:
            problems.append(f"{path!r} {reason}")
            continue
        yield Found(path, kind)
        if kind == "folder":
            yield from _find(root, path, problems)


def _kind(entry: os.DirEntry[str]) -> tuple[Literal["file", "link", "folder"] | None, str]:
    if entry.is_symlink():
        return "link", ""
    if entry.is_dir(follow_symlinks=False):
        return "folder", ""
    if entry.is_file(follow_symlinks=False):
        return "file", ""
    mode = entry.stat(follow_symlinks=False).st_mode
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return None, f"is a {next((word for test, word in kinds if test(mode)), 'device')}; move it away"


@contextlib.contextmanager
def _opened(path: str) -> Generator[int]:
    try:
        fd = os.open(path, _FLAGS | _QUIET)
    except PermissionError:
        # Only its owner may read a file without changing its time of access.
        fd = os.open(path, _FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    """One byte more is asked for than is expected, to see the end in the same call."""
    chunks: list[bytes] = []
    wanted = size + 1
    while chunk := os.read(fd, wanted):
        chunks.append(chunk)
        if len(chunk) < wanted:
            break
        wanted = _CHUNK
    return b"".join(chunks)


def _stream_id(fd: int, size: int, algorithm: str) -> str:
    digest = hashlib.new(algorithm, b"blob %d\0" % size, usedforsecurity=False)
    rest = size
    while rest > 0:
        chunk = os.read(fd, min(rest, _CHUNK))
        if not chunk:
            raise OSError(errno.EIO, "it became shorter while it was read")
        digest.update(chunk)
        rest -= len(chunk)
    return digest.hexdigest()
