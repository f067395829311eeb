"""How the windows of a workspace keep together: the holder tells each other one when its server has moved.

A window that follows keeps one connection to the control socket; nothing goes over it until a server moves.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import assert_never

import anyio
import msgspec
from anyio.abc import SocketStream

from mcpkeep.protocol.control import (
    ControlError,
    Follow,
    Followed,
    Frames,
    Moved,
    NotAnswered,
    encode_frame,
)
from mcpkeep.supervisor.control import CHUNK, connect_holder, send_frame

__all__ = ["FOLLOW_LIMIT", "Moves", "follow_holder"]

FOLLOW_LIMIT = 30.0
"""Seconds in which the other windows' servers are to follow: three times what the real one takes to start."""

_log = logging.getLogger("mcpkeep")

_ENDED = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class _Window:
    def __init__(self) -> None:
        self.gone = False
        self._followed = -1
        self._progress = anyio.Event()

    def follow(self, number: int) -> None:
        self._followed = max(self._followed, number)
        self._progress.set()
        self._progress = anyio.Event()

    def leave(self) -> None:
        self.gone = True
        self._progress.set()

    async def until_followed(self, number: int) -> None:
        while self._followed < number and not self.gone:
            await self._progress.wait()


class Moves:
    """The holder's side: counts the moves of its server, and tells every window that follows."""

    def __init__(self, *, limit: float = FOLLOW_LIMIT) -> None:
        self._limit = limit
        self._number = 0
        self._next = anyio.Event()
        self._windows: list[_Window] = []
        self._waiting = anyio.CancelScope()

    @property
    def windows(self) -> int:
        """How many follow."""
        return len(self._windows)

    async def tell(self) -> None:
        """The server has moved: tell them, and wait until theirs have followed, for `limit` seconds at most.

        What their former servers need, such as the old index's files, may be removed afterwards.
        """
        self._number += 1
        self._next.set()
        self._next = anyio.Event()
        windows, number = tuple(self._windows), self._number
        with anyio.move_on_after(self._limit) as self._waiting:
            for window in windows:
                await window.until_followed(number)
        if self._waiting.cancelled_caught:
            _log.warning("the server of another window has not followed yet; it is not waited for any longer")

    def hurry(self) -> None:
        """Wait for nobody any more: this process is to end."""
        self._limit = 0.0
        self._waiting.cancel()

    async def attend(self, stream: SocketStream) -> None:
        """Tell the window at the other end until it leaves."""
        window = _Window()
        self._windows.append(window)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_hear, stream, window, tasks.cancel_scope)
                told: int | None = None
                while True:
                    if told == self._number:
                        await self._next.wait()
                    told = self._number
                    await send_frame(stream, encode_frame(Moved(told)))
        finally:
            self._windows.remove(window)
            window.leave()


async def _hear(stream: SocketStream, window: _Window, scope: anyio.CancelScope) -> None:
    frames = Frames(msgspec.msgpack.Decoder(Followed))
    try:
        while True:
            for followed in frames.feed(await stream.receive(CHUNK)):
                window.follow(followed.number)
    except (ControlError, *_ENDED):
        scope.cancel()


async def follow_holder(
    path: Path, moved: Callable[[bool], Awaitable[None]], *, is_own: Callable[[], bool]
) -> bool:
    """Await `moved` once in the beginning, with True, and after each move of the holder's server, with False.

    Returns when the holder has gone: whether it had told anything. `is_own` says whether the socket is this
    process's own by now, which is not followed.

    Raises:
        OSError: nobody listens there.
        ControlError: it cannot be followed, such as an earlier version of mcpkeep.
    """
    stream = await connect_holder(path)
    frames: Frames[Moved | NotAnswered] = Frames(msgspec.msgpack.Decoder(Moved | NotAnswered))
    first = True
    async with stream:
        if is_own():
            return True
        await send_frame(stream, encode_frame(Follow()))
        while True:
            try:
                data = await stream.receive(CHUNK)
            except _ENDED:
                return not first
            for frame in frames.feed(data):
                match frame:
                    case Moved():
                        await moved(first)
                        first = False
                        await send_frame(stream, encode_frame(Followed(frame.number)))
                    case NotAnswered():
                        raise ControlError(frame.reason)
                    case _:
                        assert_never(frame)
