"""A folder that is read and written by relative paths, and never through a link that may lead out of it."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.file_mode import LINK, file_mode, permission_bits
from mcpkeep.protocol.upgrade.plan import Mode
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls

__all__ = ["GuardedTree", "TreeFile"]


class TreeFile(NamedTuple):
    """A file as it was read."""

    data: bytes
    """Of a link, its target."""
    mode: Mode
    bits: int
    """Permissions."""


class GuardedTree:
    """One folder; several threads may work on different files of it. Raises OSError where the disk does."""

    def __init__(self, root: Path, *, calls: FileCalls = OS_CALLS) -> None:
        self.root = root
        self._calls = calls
        self._folders: set[str] = {""}

    def place(self, path: str) -> Path:
        """The absolute path of `path`, where nothing on the way to it is a link.

        Raises UpgradeFailed where something is, or the path leads out of the folder by itself.
        """
        names = path.split("/")
        if not path or {"", ".", ".."} & set(names) or "\0" in path:
            raise UpgradeFailed(
                f"{path!r} is no path inside the installation", remediation="do not use this source"
            )
        self._check(names[:-1])
        return self.root / path

    def stat(self, path: str) -> os.stat_result | None:
        """Of what stands at `path`, itself where it is a link; None where nothing does."""
        try:
            return os.lstat(self.place(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str) -> TreeFile | None:
        """The file or link at `path`; None where there is none, or a folder."""
        found = self.stat(path)
        place = self.root / path
        if found is not None and stat.S_ISLNK(found.st_mode):
            return TreeFile(os.fsencode(os.readlink(place)), LINK, 0o777)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            bits = stat.S_IMODE(os.fstat(fd).st_mode)
            return TreeFile(file.read(), file_mode(bits), bits)

    def write(
        self, path: str, data: bytes, mode: Mode, *, bits: int | None = None, mtime_ns: int | None = None
    ) -> None:
        """Put a file, or for mode LINK a link, in the place of what stands there; not durable by itself.

        `bits` are the permissions of the file that it takes the place of, if they are to be kept; `mtime_ns`
        is when a file is said to have been changed, if not now.
        """
        place = self.place(path)
        self.make_folders(path)
        # Never opened for writing in place: it may be read-only.
        if os.path.lexists(place):
            self._calls.unlink(place)
        if mode == LINK:
            self._calls.symlink(os.fsdecode(data), place)
            return
        folder = stat.S_IMODE(os.stat(place.parent).st_mode)
        fd = self._calls.create(place)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._calls.write(fd, rest) :]
            self._calls.chmod(fd, permission_bits(mode, standing=bits, folder=folder))
            if mtime_ns is not None:
                self._calls.utime(fd, (mtime_ns, mtime_ns))
        finally:
            self._calls.close(fd)

    def remove(self, path: str) -> None:
        """Remove the file or link at `path`, if any, and the folders that are empty then."""
        place = self.place(path)
        found = self.stat(path)
        if found is None or stat.S_ISDIR(found.st_mode):
            return
        self._calls.unlink(place)
        names = path.split("/")[:-1]
        while names and not os.listdir(self.root.joinpath(*names)):
            self._calls.rmdir(self.root.joinpath(*names))
            self._folders.discard("/".join(names))
            names.pop()

    def make_folders(self, path: str) -> None:
        """Make the folders that `path` stands in."""
        names = path.split("/")[:-1]
        for length in range(1, len(names) + 1):
            folder = "/".join(names[:length])
            if folder not in self._folders:
                if not os.path.lexists(self.root / folder):
                    try:
                        self._calls.mkdir(self.root / folder)
                    except FileExistsError:
                        self._check(names[:length])
                self._folders.add(folder)

    def _check(self, names: list[str]) -> None:
        for length in range(1, len(names) + 1):
            folder = "/".join(names[:length])
            if folder in self._folders:
                continue
            try:
                found = os.lstat(self.root / folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            if stat.S_ISLNK(found.st_mode):
                raise UpgradeFailed(
                    f"{folder!r} is a link to {os.readlink(self.root / folder)!r}, and is not followed",
                    remediation="put a folder with the files in its place, and link to that from outside",
                )
            if stat.S_ISDIR(found.st_mode):
                self._folders.add(folder)
