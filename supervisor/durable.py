"""Durable files: a write is on disk, whole, when it returns; one that fails leaves the old file.

Temp file beside the target, fsync, the old file linked aside as the previous generation, rename, fsync of the
folder. Every call that changes the disk goes through FileCalls, so that tests can record, cut and break them.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from mcpkeep.supervisor.exchange import exchange
from mcpkeep.supervisor.file_system_sync import sync_file_system

__all__ = [
    "NO_LINKS",
    "OS_CALLS",
    "Draft",
    "FileCalls",
    "FileChanged",
    "InPlace",
    "NotTakenBack",
    "OsCalls",
    "Stamp",
    "make_folders",
    "put_in_place",
    "remove_file",
    "stamp_of",
    "start_writing",
    "write_durably",
]


class FileCalls(Protocol):
    """The calls that change the disk; each raises OSError as its namesake in `os`."""

    def create(self, path: Path) -> int:
        """Create a file that is not there yet, for the owner only, and open it for writing."""
        ...

    def open_append(self, path: Path) -> int:
        """Open a file that is there, to write at its end."""
        ...

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write some of `data`; answers how many bytes."""
        ...

    def fsync(self, fd: int) -> None:
        """Bring the file's content to the disk itself."""
        ...

    def fsync_file(self, path: Path) -> None:
        """The same for a file that is not open."""
        ...

    def close(self, fd: int) -> None: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def exchange(self, one: Path, other: Path) -> None:
        """Give each the other's name at one instant; OSError of NO_EXCHANGE where that cannot be done."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give the file one more name; a symbolic link itself, not what it points at."""
        ...

    def symlink(self, text: str, path: Path) -> None:
        """Make `path` a symbolic link that says `text`."""
        ...

    def unlink(self, path: Path) -> None: ...

    def mkdir(self, path: Path) -> None: ...

    def copy(self, source: int, fd: int, size: int) -> int:
        """Copy up to `size` bytes from file to file within the kernel; answers how many, 0 at the end."""
        ...

    def rmdir(self, path: Path) -> None: ...

    def chmod(self, path: Path | int, mode: int) -> None: ...

    def utime(self, path: Path | int, ns: tuple[int, int]) -> None:
        """Set the times of access and change, in nanoseconds."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file, or lengthen it by a hole."""
        ...

    def fsync_folder(self, path: Path) -> None:
        """Bring the folder's entries to the disk itself."""
        ...

    def sync_tree(self, path: Path) -> None:
        """Bring the folder and all below it to the disk itself: contents, entries, modes and times."""
        ...


class OsCalls:
    """FileCalls on the real file system."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    def open_append(self, path: Path) -> int:
        return os.open(path, os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        # On macOS fsync stops at the drive's cache.
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, full)
                return
        os.fsync(fd)

    def fsync_file(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def exchange(self, one: Path, other: Path) -> None:
        exchange(one, other)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target, follow_symlinks=False)

    def symlink(self, text: str, path: Path) -> None:
        os.symlink(text, path)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def copy(self, source: int, fd: int, size: int) -> int:
        # Linux only; it shares blocks where the file system can.
        if not hasattr(os, "copy_file_range"):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return os.copy_file_range(source, fd, size)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def chmod(self, path: Path | int, mode: int) -> None:
        os.chmod(path, mode)

    def utime(self, path: Path | int, ns: tuple[int, int]) -> None:
        os.utime(path, ns=ns)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def sync_tree(self, path: Path) -> None:
        if not sync_file_system(path):
            self.sync_each(path)

    def sync_each(self, path: Path) -> None:
        """The same as sync_tree by an fsync of every file and folder, on any file system."""
        for folder, _, names in os.walk(path):
            for name in names:
                file = os.path.join(folder, name)
                if not os.path.islink(file):
                    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        self.fsync(fd)
                    finally:
                        os.close(fd)
            self.fsync_folder(Path(folder))


OS_CALLS: FileCalls = OsCalls()

NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""What a file system without hard links answers."""


class Stamp(NamedTuple):
    """What tells one state of a file from another without reading it."""

    inode: int
    mtime_ns: int
    size: int


class FileChanged(Exception):
    """Somebody else changed the file since it was read; it has not been touched."""


def stamp_of(path: Path | int) -> Stamp | None:
    """The stamp of a file, by path or open descriptor; None where there is no such file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return Stamp(found.st_ino, found.st_mtime_ns, found.st_size)


class NotTakenBack(OSError):
    """The folder's fsync failed, and what was refused is in place all the same; `stamp` is its."""

    def __init__(self, stamp: Stamp, reason: OSError) -> None:
        super().__init__(*reason.args)
        self.stamp = stamp


class InPlace:
    """A file that has taken the place of the former one, for good once its folder is synced."""

    def __init__(
        self, target: Path, stamp: Stamp, *, calls: FileCalls, previous: Path | None, former: Stamp | None
    ) -> None:
        self.stamp = stamp
        self._target = target
        self._calls = calls
        self._previous = previous
        self._former = former

    def take_back(self, reason: OSError) -> None:
        """Put the former file (or none) back, since the folder's fsync failed for that reason.

        Raises NotTakenBack where this fails too, or nothing keeps the former one.
        """
        try:
            _take_back(self._calls, self._target, self._previous, self._former)
        except OSError:
            raise NotTakenBack(self.stamp, reason) from reason


def write_durably(
    target: Path,
    data: bytes,
    *,
    calls: FileCalls = OS_CALLS,
    previous: Path | None = None,
    expected: Stamp | Literal["absent"] | None = None,
    sync_folder: Callable[[], None] | None = None,
    mode: int | None = None,
) -> Stamp:
    """Replace `target` by `data`; on return it is on disk. Answers the new file's stamp.

    `sync_folder` stands for the folder's fsync. The rest is as with `put_in_place`.

    Raises:
        FileChanged: `target` is not the file that was expected.
        NotTakenBack: see there; only after two failures, or one where nothing keeps the old generation.
        OSError: it failed, and the old file (or none) stands. The next write uses a new temp file: after
            a failed fsync the kernel forgets what it could not write, and a second one would succeed.
    """
    written = put_in_place(target, data, calls=calls, previous=previous, expected=expected, mode=mode)
    try:
        if sync_folder is not None:
            sync_folder()
        else:
            calls.fsync_folder(target.parent)
    except OSError as e:
        written.take_back(e)
        raise
    return written.stamp


def put_in_place(
    target: Path,
    data: bytes,
    *,
    calls: FileCalls = OS_CALLS,
    previous: Path | None = None,
    expected: Stamp | Literal["absent"] | None = None,
    mode: int | None = None,
) -> InPlace:
    """Replace `target` by `data`, whose content is on disk by then; its name is once the folder is synced.

    `previous` keeps the old generation: at every instant at least one of the two is whole. With `expected`,
    a file that is there and differs from it is not overwritten. Without `mode` the file is for its owner
    only. Raises FileChanged, OSError: as write_durably.
    """
    return Draft(target, data, calls=calls, mode=mode).put_in_place(previous=previous, expected=expected)


def start_writing(fd: int) -> None:
    """Have the disk begin to write a file, so that the fsyncs of several that follow wait for it together.

    A hint; what fails is told by the fsync.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class Draft:
    """New content for a file, in a temp file beside it: put in place or dropped, once."""

    def __init__(
        self, target: Path, data: bytes, *, calls: FileCalls = OS_CALLS, mode: int | None = None
    ) -> None:
        """Raises OSError; nothing is left then."""
        self._target = target
        self._calls = calls
        self._temp = _temp(target)
        self._stamp: Stamp | None = None
        self._ended = False
        """In place, or dropped."""
        self._fd = calls.create(self._temp)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[calls.write(self._fd, rest) :]
            if mode is not None:
                calls.chmod(self._fd, mode)
        except BaseException:
            self.drop()
            raise

    def start_writing(self) -> None:
        """See the function."""
        start_writing(self._fd)

    def sync(self) -> Stamp:
        """Bring the content to the disk. Raises OSError; nothing is left then.

        Of several sync all before any is put in place: with renames in between the disk writes each alone.
        """
        if self._stamp is not None:
            return self._stamp
        try:
            try:
                self._calls.fsync(self._fd)
                stamp = stamp_of(self._fd)
                assert stamp is not None
            finally:
                self._close()
        except BaseException:
            self.drop()
            raise
        self._stamp = stamp
        return stamp

    def put_in_place(
        self, *, previous: Path | None = None, expected: Stamp | Literal["absent"] | None = None
    ) -> InPlace:
        """As the function `put_in_place`."""
        calls, target = self._calls, self._target
        stamp = self.sync()
        try:
            present = stamp_of(target)
            if expected is not None and present is not None and present != expected:
                raise FileChanged(f"{target.name} was changed by somebody else")
            if previous is not None and present is not None:
                _keep(calls, target, previous)
            calls.rename(self._temp, target)
        except BaseException:
            self.drop()
            raise
        self._ended = True
        return InPlace(target, stamp, calls=calls, previous=previous, former=present)

    def drop(self) -> None:
        """Leave nothing of it, unless it is in place. May be called again; what fails leaves a temp file."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(OSError):
            self._close()
        _try_unlink(self._calls, self._temp)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            self._calls.close(fd)


def remove_file(path: Path, *, calls: FileCalls = OS_CALLS) -> bool:
    """Unlink `path`, durably only after the next fsync of its folder; False where nothing was there."""
    try:
        calls.unlink(path)
    except FileNotFoundError:
        return False
    return True


def make_folders(folder: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Make `folder` and its missing parents, durably. Raises OSError, such as where a file is in the way."""
    _make(folder, calls)
    # Whoever made what is there already may have been killed before this.
    for made in (folder, folder.parent):
        calls.fsync_folder(made.parent)


def _make(folder: Path, calls: FileCalls) -> None:
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make(folder.parent, calls)
    try:
        calls.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    calls.fsync_folder(folder.parent)


def _temp(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _keep(calls: FileCalls, target: Path, previous: Path) -> None:
    # Not link-and-rename: where both are the same file, rename does nothing and says nothing.
    remove_file(previous, calls=calls)
    try:
        calls.link(target, previous)
    except OSError as e:
        if e.errno not in NO_LINKS:
            raise
        Draft(previous, target.read_bytes(), calls=calls).put_in_place()


def _take_back(calls: FileCalls, target: Path, previous: Path | None, present: Stamp | None) -> None:
    """After a failed fsync of the folder: what was refused should not be seen."""
    if present is None:
        calls.unlink(target)
        return
    if previous is None:
        raise OSError(errno.ENOENT, "nothing keeps the old generation")
    temp = _temp(target)
    try:
        calls.link(previous, temp)
        calls.rename(temp, target)
    except BaseException:
        _try_unlink(calls, temp)
        raise


def _try_unlink(calls: FileCalls, path: Path) -> None:
    with contextlib.suppress(OSError):
        calls.unlink(path)
