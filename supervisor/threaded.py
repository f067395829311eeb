"""Reading and writing by daemon threads, for what an event loop cannot poll: terminals, files, devices.

Also for a pipe that shares its open file with stderr, which must stay blocking for its other users.
"""

import asyncio
import contextvars
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

__all__ = ["ThreadReader", "ThreadWriter"]

_CHUNK = 65536
_CHUNKS_AHEAD = 4
"""Chunks that are read before the loop has taken the first: a quarter of a megabyte, then the peer waits."""


class ThreadReader:
    """Reads `fd` in a thread and delivers in the loop; a thread in a blocking read is left behind by close().

    Owns `fd`, and closes it when the thread ends.
    """

    def __init__(self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        self._fd = fd
        self._on_data = on_data
        self._on_eof = on_eof
        self._chunks: deque[bytes] = deque()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._paused = False
        self._over = False
        self._started = False

    def open(self) -> None:
        """Start reading."""
        self._loop = asyncio.get_running_loop()
        # Not the thread's own, in which anyio finds no event loop.
        self._context = contextvars.copy_context()
        self._started = True
        threading.Thread(target=self._read, name=f"read-{self._fd}", daemon=True).start()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._chunks:
            self._loop.call_soon(self._deliver)

    def drain(self, limit: int) -> None:
        """Deliver what has been read already, and end; what the kernel holds stays there."""
        if self._over:
            return
        self._paused = False
        self._deliver()
        if not self._over:
            self.close()
            self._on_eof()

    def close(self) -> None:
        """Deliver nothing more."""
        self._over = True
        self._room.release()
        if not self._started:
            self._started = True
            os.close(self._fd)

    def _deliver(self) -> None:
        while self._chunks and not self._paused and not self._over:
            data = self._chunks.popleft()
            self._room.release()
            if data:
                self._on_data(data)
            else:
                self._over = True
                self._on_eof()

    def _arrived(self, data: bytes) -> None:
        self._chunks.append(data)
        self._deliver()

    def _read(self) -> None:
        data = b"-"
        # A RuntimeError of call_soon_threadsafe: the loop is closed, and nobody listens any more.
        with suppress(RuntimeError):
            while data:
                self._room.acquire()
                if self._over:
                    break
                data = self._read_some()
                self._loop.call_soon_threadsafe(self._arrived, data, context=self._context)
        os.close(self._fd)

    def _read_some(self) -> bytes:
        while True:
            try:
                return os.read(self._fd, _CHUNK)
            except BlockingIOError:
                _wait_for(self._fd, writing=False)
            except OSError:
                # A terminal whose other side is gone reads as EIO.
                return b""


class ThreadWriter:
    """Writes to `fd` in a thread, in order. Owns `fd`, and closes it when the thread ends.

    The queue is bounded as every wire's: by a caller that looks at `queued` and waits for `on_writable`.
    """

    def __init__(
        self,
        fd: int,
        *,
        on_broken: Callable[[], None],
        on_writable: Callable[[], None],
        high_water: int,
        low_water: int,
    ) -> None:
        self.accepted = 0
        self.queued = 0
        self._fd = fd
        self._on_broken = on_broken
        self._on_writable = on_writable
        self._high_water = high_water
        self._low_water = low_water
        self._full = False
        self._shut = False
        self._abandoned = False
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop = asyncio.get_running_loop()
        # Not the thread's own, in which anyio finds no event loop.
        self._context = contextvars.copy_context()
        threading.Thread(target=self._write, name=f"write-{fd}", daemon=True).start()

    def write(self, data: bytes) -> bool:
        if self._shut or not data:
            return True
        self.queued += len(data)
        self._full = self._full or self.queued > self._high_water
        self._empty.clear()
        self._inbox.put(data)
        return not self._full

    async def flush(self) -> None:
        """Wait until nothing is queued."""
        await self._empty.wait()

    def close_writing(self) -> None:
        if not self._shut:
            self._shut = True
            self._inbox.put(None)

    def close(self) -> None:
        """Drop what is queued; a write that blocks is left behind."""
        self._abandoned = True
        self.close_writing()
        self.queued = 0
        self._empty.set()

    def _write(self) -> None:
        with suppress(RuntimeError):
            while (data := self._inbox.get()) is not None and not self._abandoned:
                try:
                    self._write_all(memoryview(data))
                except OSError:
                    self._loop.call_soon_threadsafe(self._broke, context=self._context)
                    break
        os.close(self._fd)

    def _write_all(self, rest: memoryview) -> None:
        while rest:
            try:
                taken = os.write(self._fd, rest)
            except BlockingIOError:
                _wait_for(self._fd, writing=True)
                continue
            rest = rest[taken:]
            self._loop.call_soon_threadsafe(self._took, taken, context=self._context)

    def _took(self, count: int) -> None:
        self.accepted += count
        if self._abandoned:
            return
        self.queued -= count
        if not self.queued:
            self._empty.set()
        if self._full and self.queued <= self._low_water:
            self._full = False
            self._on_writable()

    def _broke(self) -> None:
        broken_by_peer = not self._abandoned
        self._shut = True
        self.queued = 0
        self._empty.set()
        if broken_by_peer:
            self._on_broken()


def _wait_for(fd: int, *, writing: bool) -> None:
    """Wait where somebody else made the open file non-blocking."""
    if writing:
        select.select([], [fd], [])
    else:
        select.select([fd], [], [])
