"""A flock that says who holds it: the kernel lets go when the holder ends, however it ends."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

__all__ = ["Owner", "WriterLock", "hold", "is_running", "is_same"]


class Owner(msgspec.Struct, frozen=True):
    """The process that holds the lock, as it stands in the lock file."""

    pid: int
    create_time: float
    """Seconds since the epoch; with the pid it names one process."""
    who: str
    since: datetime

    def is_alive(self) -> bool:
        """Whether that process runs: a killed one leaves its word in the file."""
        return is_running(self.pid, self.create_time)

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
        return self._fd is not None and is_same(self._fd, self._path)

    @property
    def was_moved(self) -> bool:
        """Whether the file that this process locked stands somewhere else now, as with a folder renamed."""
        return self._fd is not None and not self.held and os.fstat(self._fd).st_nlink > 0

    def acquire(self) -> bool:
        """Take it without waiting; False where another holds it.

        Raises:
            OSError: the file cannot be made, or its file system knows no flock.
        """
        if self.held:
            return True
        self.release()
        self._fd = hold(self._path, lambda: _word(self._who))
        return self._fd is not None

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


def hold(path: Path, word: Callable[[], bytes]) -> int | None:
    """Take the flock of a file, made where it is missing, and write `word()` into it; the open descriptor.

    None where another holds it. The holder may remove the file before it closes the descriptor: whoever
    waited for the removed one takes what stands there then.

    Raises:
        OSError: the file cannot be made or written, or its file system knows no flock.
    """
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_same(fd, path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, word(), 0)
                return fd
        except OSError as e:
            os.close(fd)
            if e.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return None
            raise
        os.close(fd)  # The file was replaced between open and flock.


def is_same(fd: int, path: Path) -> bool:
    """Whether the open file is the one that stands there."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def is_running(pid: int, create_time: float) -> bool:
    """Whether the process of that id and start (seconds since the epoch) is there."""
    try:
        return abs(psutil.Process(pid).create_time() - create_time) < 1
    except (psutil.Error, ValueError, OverflowError):
        return False


def _word(who: str) -> bytes:
    owner = Owner(os.getpid(), psutil.Process().create_time(), who, datetime.now(UTC))
    return msgspec.json.encode(owner) + b"\n"
