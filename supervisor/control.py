"""The control socket: how commands in a terminal, and other windows, reach the mcpkeep of a workspace.

A Unix socket for its owner only. Its holder is whoever has the flock beside it; `pid` names that process.
"""

import logging
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, assert_never

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec
from anyio.abc import SocketStream, TaskStatus

from mcpkeep.protocol.control import (
    Answered,
    Ask,
    ControlError,
    Follow,
    Frames,
    FromServer,
    NotAnswered,
    Stepped,
    encode_frame,
)
from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.upgrade.request import UpgradeAnswer, UpgradeMessage
from mcpkeep.supervisor.writer_lock import WriterLock

__all__ = [
    "CHUNK",
    "Answering",
    "Attending",
    "Holder",
    "ask_holder",
    "connect_holder",
    "send_frame",
    "serve_control",
    "socket_path",
]

_log = logging.getLogger("mcpkeep")

CONNECT_LIMIT = 5.0
"""Seconds to connect, and to send or take the question."""

_PATH_LIMIT = 100
"""Bytes of a socket's path that every system takes: macOS allows 103, Linux 107."""

CHUNK = 65536
"""Bytes taken from a socket at a time."""

_STEPS = 256
"""Steps kept for an asker that does not read; further ones are dropped."""

Answering: TypeAlias = Callable[[UpgradeMessage, Callable[[str, str], None]], Awaitable[UpgradeAnswer]]
"""Answers a question, telling session and step on the way."""

Attending: TypeAlias = Callable[[SocketStream], Awaitable[None]]
"""Serves a window that follows, for as long as it does. Raises nothing."""


def socket_path(own: Path) -> Path:
    """Where the socket of this folder of mcpkeep's is; in a folder of the user's where that is too long.

    Raises FileNotFoundError where the folder is not there: nobody can listen then.
    """
    path = own / "control.sock"
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        return path
    # Not by its name: an upgrade may rename the folder. Not in TMPDIR, which an IDE may have another of.
    found = os.stat(own)
    return Path("/tmp", f"mcpkeep-{os.getuid()}", f"{found.st_dev:x}-{found.st_ino:x}.sock")


class Holder:
    """Whether this process is the one that signals and commands go to."""

    def __init__(self, own: Path, *, who: str) -> None:
        self._own = own
        self._who = who
        self._lock = WriterLock(own / "holder", who=who)

    def try_to_hold(self) -> bool:
        """Become the holder unless another process is; then `pid` names this process. Raises OSError."""
        if not self._lock.acquire():
            return False
        temp = self._own / f".pid.{os.getpid()}.tmp"
        temp.write_text(f"{os.getpid()}\n", encoding="ascii")
        os.replace(temp, self._own / "pid")
        return True

    def pid(self) -> int | None:
        """The holder's process; None where there is none alive."""
        owner = self._lock.owner()
        return owner.pid if owner is not None and owner.is_alive() else None

    async def hold(self) -> None:
        """Wait until this process is the holder, without waking up meanwhile. Raises OSError."""
        token = anyio.lowlevel.current_token()
        while not self.try_to_hold():
            freed = anyio.Event()

            def wait(freed: anyio.Event = freed) -> None:
                with suppress(OSError):
                    self._lock.wait()
                with suppress(RuntimeError):  # the loop has ended
                    anyio.from_thread.run_sync(freed.set, token=token)

            # A daemon: nothing interrupts a thread in flock, and nobody needs it at the end.
            threading.Thread(target=wait, name="holder", daemon=True).start()
            await freed.wait()

    def release(self) -> None:
        """Let another process be the holder."""
        if self._lock.held:
            with suppress(OSError):
                os.unlink(self._own / "pid")
        self._lock.release()


async def serve_control(
    path: Path,
    answering: Answering,
    attending: Attending | None = None,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer questions until cancelled. A question whose asker leaves is worked on to its end.

    `attending` takes the connections of windows that follow; without it they are refused.

    Raises:
        OSError: the socket cannot be made.
        ControlError: its folder belongs to somebody else.
    """
    _make_private(path.parent)
    _unlink(path)
    listener = await anyio.create_unix_listener(path, mode=0o600)
    try:
        async with listener, anyio.create_task_group() as tasks:
            task_status.started()

            async def answer(stream: SocketStream) -> None:
                async with stream:
                    await _answer_one(stream, answering, attending)

            await listener.serve(answer, task_group=tasks)
    finally:
        _unlink(path)


async def ask_holder(
    path: Path, question: UpgradeMessage, *, on_step: Callable[[str, str], None]
) -> UpgradeAnswer:
    """Ask the mcpkeep of the workspace, for as long as it takes.

    Raises:
        OSError: nobody listens there.
        ControlError: it does not answer in this language, went away before it did, or is another user's.
    """
    stream = await connect_holder(path)
    frames: Frames[FromServer] = Frames(msgspec.msgpack.Decoder(FromServer))
    async with stream:
        with suppress(anyio.BrokenResourceError):  # what it refused it for is to be read
            await stream.send(encode_frame(Ask(question)))
        while True:
            try:
                data = await stream.receive(CHUNK)
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                raise ControlError(
                    "mcpkeep went away before it answered; its report says how far it came"
                ) from error
            for frame in frames.feed(data):
                match frame:
                    case Stepped():
                        on_step(frame.session_id, frame.step)
                    case Answered():
                        return frame.answer
                    case NotAnswered():
                        raise ControlError(frame.reason)
                    case _:
                        assert_never(frame)


async def connect_holder(path: Path) -> SocketStream:
    """A connection to the mcpkeep of the workspace.

    Raises:
        OSError: nobody listens there.
        ControlError: it is another user's.
    """
    if os.lstat(path).st_uid != os.getuid():
        raise ControlError(f"{str(path)!r} belongs to another user; ask as that one, or remove it")
    with anyio.fail_after(CONNECT_LIMIT):
        return await anyio.connect_unix(path)


async def send_frame(stream: SocketStream, frame: bytes) -> None:
    """Send it, if anybody is there to take it."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.send(frame)


async def _answer_one(stream: SocketStream, answering: Answering, attending: Attending | None) -> None:
    try:
        with anyio.fail_after(CONNECT_LIMIT):
            asked = await _first_frame(stream)
    except (ControlError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        reason = str(error) or "it did not come to its end"
        await send_frame(stream, encode_frame(NotAnswered(f"the question could not be read: {reason}")))
        return
    if isinstance(asked, Ask):
        await _work(stream, answering, asked.question)
    elif attending is not None:
        await attending(stream)
    else:
        await send_frame(stream, encode_frame(NotAnswered("nobody can be followed here")))


async def _work(stream: SocketStream, answering: Answering, question: UpgradeMessage) -> None:
    send, receive = anyio.create_memory_object_stream[Stepped](_STEPS)

    def step(session_id: str, name: str) -> None:
        with suppress(anyio.WouldBlock):
            send.send_nowait(Stepped(session_id, name))

    async def tell() -> None:
        async for stepped in receive:
            await send_frame(stream, encode_frame(stepped))

    reply = b""
    with receive:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            with send:
                reply = await _reply(answering, question, step)
        await send_frame(stream, reply)


async def _reply(answering: Answering, question: UpgradeMessage, step: Callable[[str, str], None]) -> bytes:
    try:
        return encode_frame(Answered(await answering(question, step)))
    except McpkeepError as error:
        return encode_frame(NotAnswered(str(error)))
    except Exception as error:
        _log.error("a question over the control socket failed", exc_info=error)
        return encode_frame(NotAnswered(f"a bug in mcpkeep: {type(error).__name__}; see its log"))


async def _first_frame(stream: SocketStream) -> Ask | Follow:
    frames: Frames[Ask | Follow] = Frames(msgspec.msgpack.Decoder(Ask | Follow))
    while True:
        for asked in frames.feed(await stream.receive(CHUNK)):
            return asked


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ControlError(f"{str(folder)!r} is not a folder of yours; have it removed")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(folder, 0o700)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
