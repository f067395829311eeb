"""A flock that says who holds it: the kernel lets go when the holder ends, however it ends."""

import contextlib
import errno
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

__all__ = ["Owner", "WriterLock"]


class Owner(msgspec.Struct, frozen=True):
    """The process that holds the lock, as it stands in the lock file."""

    pid: int
    create_time: float
    """Seconds since the epoch; with the pid it names one process."""
    who: str
    since: datetime

    def is_alive(self) -> bool:
        """Whether that process runs: a killed one leaves its word in the file."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.create_time) < 1
        except psutil.Error:
            return False

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.who}, since {self.since:%Y-%m-%d %H:%M:%S} UTC)"


class WriterLock:
    """The lock of one file; `who` tells people which process this is. For one thread at a time."""

    def __init__(self, path: Path, *, who: str) -> None:
        self._path = path
        self._who = who
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds it; not so any more where somebody removed or replaced the file."""
        return self._fd is not None and _same(self._fd, self._path)

    def acquire(self) -> bool:
        """Take it without waiting; False where another holds it.

        Raises:
            OSError: the file cannot be made, or its file system knows no flock.
        """
        if self.held:
            return True
        self.release()
        while True:
            fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(fd, self._path):
                    owner = Owner(os.getpid(), psutil.Process().create_time(), self._who, datetime.now(UTC))
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, msgspec.json.encode(owner) + b"\n", 0)
                    self._fd = fd
                    return True
            except OSError as e:
                os.close(fd)
                if e.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                    return False
                raise
            os.close(fd)  # The file was replaced between open and flock.

    def wait(self) -> None:
        """Block until nobody holds it. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    def owner(self) -> Owner | None:
        """Who holds it by the file's word; None where it cannot be read (yet)."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Owner)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def release(self) -> None:
        """Let go; harmless where it is not held. The file stays: removing it would let two hold it."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        os.close(fd)


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
