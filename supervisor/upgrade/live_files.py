"""Files as a change deals with them: digests, copies with mode and times."""

import hashlib
import os
import stat
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, start_writing

__all__ = ["SAME_PATH", "copy_file", "digest", "make_missing", "read_bytes", "require_inside"]

_CHUNK = 1 << 20

SAME_PATH = "move it back onto the installation's own file system, or take the link away"


def read_bytes(path: Path) -> bytes:
    """A file's bytes, or the text of a symbolic link, which is not followed. Raises OSError."""
    if path.is_symlink():
        return os.fsencode(os.readlink(path))
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def digest(path: Path) -> str | None:
    """SHA-256 of the bytes, or of a symbolic link's text; None where nothing or a folder is.

    Raises OSError where it cannot be read.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(found.st_mode):
        return None
    if stat.S_ISLNK(found.st_mode):
        return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
    if not stat.S_ISREG(found.st_mode):
        raise UpgradeFailed(
            f"{str(path)!r} is neither a file nor a link", remediation="move it out of the installation"
        )
    sha = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while chunk := os.read(fd, _CHUNK):
            sha.update(chunk)
    finally:
        os.close(fd)
    return sha.hexdigest()


def copy_file(source: Path, target: Path, *, calls: FileCalls = OS_CALLS, synced: bool = True) -> str:
    """Copy bytes, mode and times to the nanosecond, or the link; the SHA-256 of what was copied.

    The bytes are on disk on return if `synced`, else on their way there; the folder's entry is not. Raises
    OSError, such as where `target` exists.
    """
    if source.is_symlink():
        text = os.readlink(source)
        calls.symlink(text, target)
        return hashlib.sha256(os.fsencode(text)).hexdigest()
    sha = hashlib.sha256()
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(read)
        fd = calls.create(target)
        try:
            while chunk := os.read(read, _CHUNK):
                sha.update(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[calls.write(fd, rest) :]
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
            if synced:
                calls.fsync(fd)
            else:
                start_writing(fd)
        finally:
            calls.close(fd)
    finally:
        os.close(read)
    return sha.hexdigest()


def make_missing(folder: Path, *, calls: FileCalls = OS_CALLS, synced: bool = True) -> set[Path]:
    """Make the folder and its missing parents, durably each if `synced`; those in which one was made.

    Raises OSError.
    """
    if folder.is_dir():
        return set()
    touched = make_missing(folder.parent, calls=calls, synced=synced)
    try:
        calls.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    if synced:
        calls.fsync_folder(folder.parent)
    return touched | {folder.parent}


def require_inside(base: Path, paths: tuple[str, ...]) -> None:
    """Every folder above each path is a real one of the installation's own device, or missing.

    Raises:
        UpgradeFailed: a path is absolute or climbs, or a folder above it is a link, a file or elsewhere.
    """
    device = os.stat(base).st_dev
    seen: set[str] = {""}
    for path in paths:
        parts = path.split("/")
        if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise UpgradeFailed(
                f"{path!r} is not a path inside the installation", remediation="do not use this source"
            )
        for n in range(1, len(parts)):
            above = "/".join(parts[:n])
            if above in seen:
                continue
            seen.add(above)
            try:
                found = os.lstat(base / above)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISLNK(found.st_mode):
                raise UpgradeFailed(f"{above!r}, above {path!r}, is a symbolic link", remediation=SAME_PATH)
            if stat.S_ISDIR(found.st_mode) and found.st_dev != device:
                raise UpgradeFailed(f"{above!r}, above {path!r}, is on another device", remediation=SAME_PATH)
