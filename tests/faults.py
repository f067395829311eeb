"""File calls that are counted, so that each in turn can fail, or be the one in which the process ends."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from mcpkeep.supervisor.durable import OsCalls

__all__ = ["CountedCalls", "Faults", "Killed", "Kills"]


class Killed(BaseException):
    """SIGKILL, as far as the code under test can tell: nothing that follows touches the disk."""


class CountedCalls(OsCalls):
    """Real calls, each counted before it is made.

    Those that only bring to the disk what is there are not made: these tests are not about the disk itself.
    """

    made: int = 0
    exchanges: bool = True
    """Whether the file system can exchange two names."""

    def _count(self) -> None:
        self.made += 1

    def _count_sync(self) -> None:
        """Not counted here."""

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def open_append(self, path: Path) -> int:
        self._count()
        return super().open_append(path)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._count()
        return super().write(fd, data)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def exchange(self, one: Path, other: Path) -> None:
        if not self.exchanges:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._count()
        super().exchange(one, other)

    def link(self, source: Path, target: Path) -> None:
        self._count()
        super().link(source, target)

    def symlink(self, text: str, path: Path) -> None:
        self._count()
        super().symlink(text, path)

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._count()
        super().mkdir(path)

    def copy(self, source: int, fd: int, size: int) -> int:
        self._count()
        return super().copy(source, fd, size)

    def rmdir(self, path: Path) -> None:
        self._count()
        super().rmdir(path)

    def chmod(self, path: Path | int, mode: int) -> None:
        self._count()
        super().chmod(path, mode)

    def utime(self, path: Path | int, ns: tuple[int, int]) -> None:
        self._count()
        super().utime(path, ns)

    def truncate(self, fd: int, size: int) -> None:
        self._count()
        super().truncate(fd, size)

    def fsync(self, fd: int) -> None:
        self._count_sync()

    def fsync_file(self, path: Path) -> None:
        self._count_sync()

    def fsync_folder(self, path: Path) -> None:
        self._count_sync()

    def sync_tree(self, path: Path) -> None:
        self._count_sync()


@dataclass
class Faults(CountedCalls):
    """Real calls, of which number `fail_at` (from 0) fails with `code`, or all `from_then_on`."""

    fail_at: int
    code: int
    from_then_on: bool = False
    made: int = 0
    failed: int = 0
    exchanges: bool = True

    def _count(self) -> None:
        n, self.made = self.made, self.made + 1
        if n == self.fail_at or (self.from_then_on and n > self.fail_at):
            self.failed += 1
            raise OSError(self.code, os.strerror(self.code))

    def _count_sync(self) -> None:
        self._count()


@dataclass
class Kills(CountedCalls):
    """Real calls up to number `at` (from 0), where the process ends: none is made any more.

    To be killed in what only brings to the disk what is there changes nothing: that is not counted.
    """

    at: int
    made: int = 0
    exchanges: bool = True

    def _count(self) -> None:
        n, self.made = self.made, self.made + 1
        if n >= self.at:
            raise Killed

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.made == self.at:  # The last one gets half of it out.
            OsCalls.write(self, fd, data[: len(data) // 2])
        return super().write(fd, data)
