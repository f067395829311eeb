"""The pipes to one peer, over file descriptors of whatever kind a client or a child gives.

Pipes and sockets are read when the loop says so, in its fast lane where it has one, and written at once; by
the loop only where the kernel does not take it all. All else has threads.
"""

import asyncio
import fcntl
import os
import select
import socket
import stat
import sys
import termios
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from mcpkeep.supervisor.loop import HotLoop
from mcpkeep.supervisor.threaded import ThreadReader, ThreadWriter

__all__ = ["DRAIN_LIMIT", "HIGH_WATER", "LOW_WATER", "PIPE_CAPACITY", "FdWire"]

PIPE_CAPACITY = 1 << 20
"""Bytes. Linux' limit without privileges; cuts a call of 1 MB by a third."""

HIGH_WATER = 1 << 20
"""Bytes that may wait before the writer should pause its source: as much again as the pipe holds."""

LOW_WATER = HIGH_WATER // 4
"""Bytes: the source is woken while the kernel still has a pipe full to hand over: the peer never starves."""

DRAIN_LIMIT = 64 << 20
"""Bytes that drain_now() reads at most, since somebody may write faster than it reads."""

_SMALL_READ = 1 << 16
"""Bytes asked for at first: a buffer that malloc takes from what it has, without asking the kernel."""

_LARGE_READ = 1 << 20
"""Bytes asked for where the last read filled its buffer."""

_IOVECS = 64

_Watch = Callable[[int, Callable[[], object]], object]


class FdWire:
    """One peer's two descriptors as a `Wire`; owns both. To be used in the running event loop's thread.

    Callbacks: `on_data(bytes)` for what is read and `on_eof()` once at its end, also after drain_now();
    neither before open(). `on_broken()` once, when the peer no longer takes what is written. `on_writable()`
    when `queued` fell to `low_water` after having been above `high_water`. None comes from within write().

    What was blocking is blocking again after close(), and at the interpreter's exit. Descriptors 0 to 2 are
    never closed but point to /dev/null afterwards, so that no file opened later becomes someone's stdout.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        *,
        on_data: Callable[[bytes], None],
        on_eof: Callable[[], None],
        on_broken: Callable[[], None] = lambda: None,
        on_writable: Callable[[], None] = lambda: None,
        high_water: int = HIGH_WATER,
        low_water: int = LOW_WATER,
    ) -> None:
        self._fds = {read_fd, write_fd}
        self._write_fd = write_fd
        was_blocking = {fd for fd in self._fds if os.get_blocking(fd)}
        self._unblocked: set[int] = set()
        self._restore = weakref.finalize(self, _make_blocking, self._unblocked)

        self._reader: _DirectReader | ThreadReader
        if _is_pollable(read_fd):
            self._unblocked |= {read_fd} & was_blocking
            _prepare(read_fd)
            self._reader = _DirectReader(read_fd, on_data, on_eof)
        else:
            self._reader = ThreadReader(_duplicate(read_fd), on_data, on_eof)

        self._writer: _DirectWriter | ThreadWriter
        if _is_pollable(write_fd):
            self._unblocked |= {write_fd} & was_blocking
            _prepare(write_fd)
            self._writer = _DirectWriter(
                write_fd,
                finish=self._finish_writing,
                on_broken=on_broken,
                on_writable=on_writable,
                high_water=high_water,
                low_water=low_water,
            )
        else:
            self._writer = ThreadWriter(
                _duplicate(write_fd),
                on_broken=on_broken,
                on_writable=on_writable,
                high_water=high_water,
                low_water=low_water,
            )

    @property
    def accepted(self) -> int:
        """Bytes that the kernel has taken."""
        return self._writer.accepted

    @property
    def queued(self) -> int:
        """Bytes written here that the kernel has not taken yet."""
        return self._writer.queued

    def open(self) -> None:
        """Start reading."""
        self._reader.open()

    def write(self, data: bytes) -> bool:
        """Hand on `data`, or queue what the kernel does not take; dropped once the peer is gone.

        Returns whether the peer keeps up: False from the high water on until on_writable.
        """
        return self._writer.write(data)

    def pause_reading(self) -> None:
        self._reader.pause()

    def resume_reading(self) -> None:
        self._reader.resume()

    def drain_now(self, limit: int = DRAIN_LIMIT) -> None:
        """Deliver what the kernel holds, at most about `limit` bytes, then `on_eof`; the end of reading.

        For a peer that is known to be dead, while somebody else may hold its end of the pipe open.
        """
        self._reader.drain(limit)

    def take_back_unread(self) -> None:
        """Count as never accepted what still lies in the pipe of a peer that is gone.

        Exact, or nothing: only where no process is left that could read it, and the kernel can tell how much
        it is (Linux). So a request that a killed child never read can safely go to the next one.
        """
        self._writer.accepted -= _unread(self._write_fd) if self._write_fd in self._fds else 0

    async def flush(self) -> None:
        """Wait until nothing is queued: taken by the kernel, or dropped because the peer is gone."""
        await self._writer.flush()

    def close_writing(self) -> None:
        """Close the write side after what is queued has gone out."""
        self._writer.close_writing()

    def close(self) -> None:
        """Close both sides at once; what is queued is dropped, and no callback comes any more."""
        self._reader.close()
        self._writer.close()
        self._restore()
        for fd in self._fds:
            _release(fd)
        self._fds.clear()

    def _finish_writing(self) -> None:
        fd = self._write_fd
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            # Reading may go on over the same socket, so it is closed by close() only.
            with suppress(OSError), socket.socket(fileno=os.dup(fd)) as shut:
                shut.shutdown(socket.SHUT_WR)
        elif fd in self._fds:
            self._fds.discard(fd)
            if fd in self._unblocked:
                self._unblocked.discard(fd)
                _make_blocking({fd})
            _release(fd)


class _DirectReader:
    """Reads a non-blocking descriptor whenever it can be read."""

    def __init__(self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        self._fd = fd
        self._on_data = on_data
        self._on_eof = on_eof
        self._watch, self._unwatch, *_ = _watchers(asyncio.get_running_loop())
        self._size = _SMALL_READ
        self._opened = False
        self._paused = False
        self._over = False

    def open(self) -> None:
        self._opened = True
        self._listen()

    def pause(self) -> None:
        self._paused = True
        if self._opened and not self._over:
            self._unwatch(self._fd)

    def resume(self) -> None:
        self._paused = False
        self._listen()

    def drain(self, limit: int) -> None:
        total = 0
        while total < limit and not self._over and (taken := self._read()):
            total += taken
        self._end()

    def close(self) -> None:
        if not self._over:
            self._over = True
            if self._opened:
                self._unwatch(self._fd)

    def _listen(self) -> None:
        if self._opened and not self._over and not self._paused:
            self._watch(self._fd, self._read)

    def _read(self) -> int:
        """Take what is there, once; how many bytes it was."""
        try:
            data = os.read(self._fd, self._size)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._end()
            return 0
        self._size = _LARGE_READ if len(data) >= _SMALL_READ else _SMALL_READ
        self._on_data(data)
        return len(data)

    def _end(self) -> None:
        if not self._over:
            self.close()
            self._on_eof()


def _watchers(
    loop: asyncio.AbstractEventLoop,
) -> tuple[_Watch, Callable[[int], object], _Watch, Callable[[int], object]]:
    """How this loop watches a descriptor for reading, stops, watches it for writing, stops."""
    if isinstance(loop, HotLoop):
        return loop.add_hot_reader, loop.remove_hot_reader, loop.add_hot_writer, loop.remove_hot_writer
    return loop.add_reader, loop.remove_reader, loop.add_writer, loop.remove_writer


class _DirectWriter:
    """Writes to a non-blocking descriptor at once; the loop writes only what the kernel did not take."""

    def __init__(
        self,
        fd: int,
        *,
        finish: Callable[[], None],
        on_broken: Callable[[], None],
        on_writable: Callable[[], None],
        high_water: int,
        low_water: int,
    ) -> None:
        self.accepted = 0
        self.queued = 0
        self._fd = fd
        self._finish = finish
        self._on_broken = on_broken
        self._on_writable = on_writable
        self._high_water = high_water
        self._low_water = low_water
        self._full = False
        self._shut = False
        self._queue: deque[bytes | memoryview] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop = asyncio.get_running_loop()
        *_, self._watch, self._unwatch = _watchers(self._loop)

    def write(self, data: bytes) -> bool:
        if self._shut:
            return True
        if self._queue:
            return self._enqueue(data)
        try:
            taken = os.write(self._fd, data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._break()
            return True
        self.accepted += taken
        if taken == len(data):
            return True
        self._empty.clear()
        self._watch(self._fd, self._write_queued)
        return self._enqueue(memoryview(data)[taken:])

    async def flush(self) -> None:
        await self._empty.wait()

    def close_writing(self) -> None:
        if not self._shut:
            self._shut = True
            if not self._queue:
                self._finish()

    def close(self) -> None:
        self._shut = True
        self._drop_queue()
        self._on_broken = self._on_writable = _ignore

    def _enqueue(self, data: bytes | memoryview) -> bool:
        if data:
            self._queue.append(data)
            self.queued += len(data)
            self._full = self._full or self.queued > self._high_water
        return not self._full

    def _write_queued(self) -> None:
        queue = self._queue
        try:
            taken = os.writev(self._fd, list(islice(queue, _IOVECS)))
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        self.accepted += taken
        self.queued -= taken
        while taken:
            size = len(queue[0])
            if size > taken:
                queue[0] = memoryview(queue[0])[taken:]
                break
            queue.popleft()
            taken -= size
        if not queue:
            finish = self._shut
            self._drop_queue()
            if finish:
                self._finish()
        if self._full and self.queued <= self._low_water:
            self._full = False
            self._on_writable()

    def _break(self) -> None:
        self._shut = True
        self._drop_queue()
        # Not at once: the caller of write() may be in the middle of something.
        self._loop.call_soon(lambda: self._on_broken())

    def _drop_queue(self) -> None:
        if not self._empty.is_set():
            self._unwatch(self._fd)
        self._queue.clear()
        self.queued = 0
        self._empty.set()


def _is_pollable(fd: int) -> bool:
    status = os.fstat(fd)
    if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
        return False
    try:
        stderr = os.fstat(2)
    except OSError:
        return True
    return (status.st_dev, status.st_ino) != (stderr.st_dev, stderr.st_ino)


def _unread(fd: int) -> int:
    """Bytes in a pipe that nobody can read any more; 0 where that is not sure."""
    poll = select.poll()
    poll.register(fd, 0)
    if not sys.platform.startswith("linux") or not any(event & select.POLLERR for _, event in poll.poll(0)):
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _prepare(fd: int) -> None:
    os.set_blocking(fd, False)
    set_size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if set_size is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
        # Refused above the user's share of pipe memory: slower, not wrong.
        with suppress(OSError):
            fcntl.fcntl(fd, set_size, PIPE_CAPACITY)


def _duplicate(fd: int) -> int:
    """A duplicate above the standard three, not inherited by children."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _make_blocking(fds: set[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.set_blocking(fd, True)


def _release(fd: int) -> None:
    if fd > 2:
        os.close(fd)
        return
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    if null != fd:
        os.close(null)


def _ignore() -> None:
    pass
