"""A small MCP client of mcpkeep's own: it starts a server, asks it this and that, and ends it.

The process carries the run's mark as every child does, so that a watcher ends it too. stdin is never closed
while it lives: on EOF the real server deletes the state file, which may be its successor's by then.
"""

import os
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NoReturn, cast

import anyio
import anyio.to_thread
import msgspec
import psutil
from msgspec import UNSET

from mcpkeep.protocol.errors import ProtocolError, SpawnError
from mcpkeep.protocol.relay.framing import Frame, LineSplitter, Oversized
from mcpkeep.protocol.relay.jsonrpc import (
    METHOD_NOT_FOUND,
    ErrorBody,
    Message,
    RequestId,
    decode_message,
    encode_error,
    encode_notification,
    encode_object,
    encode_request,
    encode_result,
    split_batch,
)
from mcpkeep.protocol.switch import Exit
from mcpkeep.protocol.upgrade.diagnosis import CHOOSE_ANOTHER, explain_end, shown_tail
from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.handshake import ServerInfo, initialize_params, read_initialize, read_result
from mcpkeep.protocol.upgrade.proof import tool_digests
from mcpkeep.protocol.upgrade.readiness import Patience, WaitVerdict, begin_wait
from mcpkeep.protocol.upgrade.release import Launch
from mcpkeep.supervisor.app import VERSION
from mcpkeep.supervisor.launch import clean_environment
from mcpkeep.supervisor.local import LocalProcess
from mcpkeep.supervisor.process import spawn_child
from mcpkeep.supervisor.wire import FdWire

__all__ = ["LIST_LIMIT", "TERM_GRACE", "Probe", "open_probe", "start_probe", "tree_cpu"]

LIST_LIMIT = 30.0
"""Seconds for one page of tools; the real server takes 8 ms."""

TERM_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL; the real server takes 0.1."""

EXIT_GRACE = 5.0
"""Seconds that a server whose stdout has ended may take to exit, before it is said to live on."""

MESSAGE_LIMIT = 64 << 20
"""Bytes of one answer."""

PAGE_LIMIT = 1000

Heard = Callable[[str], None]


def _unheard(_: str) -> None:
    pass


@asynccontextmanager
async def open_probe(
    launch: Launch,
    cwd: str,
    run_id: str,
    *,
    patience: Patience | None = None,
    term_grace: float = TERM_GRACE,
    environ: Mapping[str, str] | None = None,
    heard: Heard = _unheard,
) -> "AsyncGenerator[Probe]":
    """A server for as long as the context lasts; see start_probe() and Probe.end()."""
    probe = await start_probe(
        launch, cwd, run_id, patience=patience, term_grace=term_grace, environ=environ, heard=heard
    )
    try:
        yield probe
    finally:
        await probe.end()


async def start_probe(
    launch: Launch,
    cwd: str,
    run_id: str,
    *,
    patience: Patience | None = None,
    term_grace: float = TERM_GRACE,
    environ: Mapping[str, str] | None = None,
    heard: Heard = _unheard,
) -> "Probe":
    """Start the server in `cwd`; to be ended by Probe.end(). `heard` takes each line of its stderr.

    `environ` stands for mcpkeep's own environment; what would lead it to other code is taken out.

    Raises:
        ServerEnded: it could not be executed.
    """
    probe = Probe(
        launch,
        cwd,
        run_id,
        patience=patience or Patience(),
        term_grace=term_grace,
        environ=os.environ if environ is None else environ,
        heard=heard,
    )
    try:
        await probe.open()
    except BaseException:
        probe.kill()
        raise
    return probe


def tree_cpu(pid: int) -> float:
    """Seconds of processor time that the process and its descendants have used, the ended ones included."""
    total = 0.0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return total
    for process in tree:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class _Asked:
    """A request that has not been answered."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.done = anyio.Event()
        self.message: Message | Oversized | None = None
        """None where the server ended instead."""


class Probe:
    """A running server and a conversation with it; one task at a time asks."""

    def __init__(
        self,
        launch: Launch,
        cwd: str,
        run_id: str,
        *,
        patience: Patience,
        term_grace: float,
        environ: Mapping[str, str],
        heard: Heard,
    ) -> None:
        """Spawn it. Raises ServerEnded where it cannot be executed."""
        try:
            spawned = spawn_child(
                launch.command,
                cwd=cwd,
                env={**clean_environment(environ), **launch.env},
                run_id=run_id,
                # Of its own, and none that a served child could have: the end of one must not end the other.
                generation=-1 - secrets.randbits(48),
            )
        except SpawnError as error:
            raise _ended("it could be asked anything", Exit(spawn_error=error.reason)) from error
        self._patience = patience
        self._term_grace = term_grace
        self._heard = heard
        self._splitter = LineSplitter(MESSAGE_LIMIT)
        self._asked: dict[RequestId, _Asked] = {}
        self._next_id = 0
        self._output = 0
        self._over = False
        self.noise = 0
        """Lines on its stdout that are no message."""
        self._cpu_limiter = anyio.CapacityLimiter(1)
        self._wait = begin_wait(patience, anyio.current_time())
        self._wire = FdWire(spawned.stdout, spawned.stdin, on_data=self._read, on_eof=self._eof)
        self._process = LocalProcess(spawned, self._wire, self._hear)
        with suppress(psutil.Error):
            self._signalled = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stderr_lines(self, count: int) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first."""
        return self._process.stderr_lines(count)

    async def open(self) -> None:
        """Begin to listen to it."""
        self._wire.open()

    async def handshake(self, *, waiting: Heard = _unheard) -> ServerInfo:
        """Open the session. `waiting` takes its last line of stderr, whenever that has changed.

        Raises:
            ServerEnded: it ended, was silent for the limit, or was not ready at the cap.
            UpgradeFailed: its answer is of no known protocol version.
        """
        asked = self._ask("initialize", initialize_params(VERSION))
        await self._wait_patiently(asked, waiting)
        info = read_initialize(await self._result(asked))
        self._wire.write(encode_notification("notifications/initialized"))
        return info

    async def tools(self) -> dict[str, str]:
        """Its tools by name, each with the digest of its description and schemas.

        Raises:
            UpgradeFailed: it cannot list them, or ended.
        """
        found: dict[str, str] = {}
        cursor: object = None
        for _ in range(PAGE_LIMIT):
            page = await self._request("tools/list", {"cursor": cursor} if cursor else {}, LIST_LIMIT)
            tools = page.get("tools")
            if isinstance(tools, list):
                found |= tool_digests(
                    cast("dict[str, object]", tool)
                    for tool in cast("list[object]", tools)
                    if isinstance(tool, dict)
                )
            cursor = page.get("nextCursor")
            if not cursor:
                return found
        raise UpgradeFailed(
            f"the server's list of tools does not end after {PAGE_LIMIT} pages", remediation=CHOOSE_ANOTHER
        )

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        """Call one of its tools, and answer the result object. Seconds.

        Raises:
            ServerEnded: it ended.
            UpgradeFailed: it answered an error, or not in time.
        """
        return await self._request("tools/call", {"name": tool, "arguments": arguments}, within)

    async def end(self) -> Exit:
        """SIGTERM, and SIGKILL to its whole tree after the grace, or at once where this is cancelled."""
        try:
            with suppress(psutil.Error, AttributeError):
                self._signalled.terminate()
            with anyio.move_on_after(self._term_grace):
                return await self._process.wait()
        finally:
            exit_ = await self._process.stop(eof_grace=0, term_grace=0)
        return exit_

    def kill(self) -> None:
        """SIGKILL to its whole tree, now."""
        self._process.kill()

    # Asking

    async def _request(self, method: str, params: Mapping[str, object], within: float) -> dict[str, object]:
        asked = self._ask(method, params)
        with anyio.move_on_after(within):
            await asked.done.wait()
        if not asked.done.is_set():
            id_ = next(id_ for id_, other in self._asked.items() if other is asked)
            del self._asked[id_]
            self._wire.write(encode_notification("notifications/cancelled", {"requestId": id_}))
            raise UpgradeFailed(
                f"the server did not answer {asked.what} within {within:g} s",
                remediation=CHOOSE_ANOTHER,
                details={"stderr_tail": list(shown_tail(self.stderr_lines(40)))},
            )
        return read_result(await self._result(asked), asked.what)

    def _ask(self, method: str, params: Mapping[str, object]) -> _Asked:
        self._next_id += 1
        tool = params.get("name")
        asked = _Asked(f"{method} of {tool!r}" if tool is not None else method)
        if self._over:
            asked.done.set()
        else:
            self._asked[self._next_id] = asked
            self._wire.write(encode_request(self._next_id, method, encode_object(params)))
        return asked

    async def _wait_patiently(self, asked: _Asked, waiting: Heard) -> None:
        last: tuple[str, ...] = ()
        while not asked.done.is_set():
            with anyio.move_on_after(self._patience.pause):
                await asked.done.wait()
                return
            line = self.stderr_lines(1)
            if line != last:
                # A progress bar is one line that changes: no line was heard, and yet it wrote.
                last = line
                self._output += 1
                waiting(line[0])
            cpu = await anyio.to_thread.run_sync(
                tree_cpu, self.pid, limiter=self._cpu_limiter, abandon_on_cancel=True
            )
            now = anyio.current_time()
            self._wait = self._wait.look(now, output=self._output, cpu=cpu)
            match self._wait.verdict(now):
                case WaitVerdict.SILENT:
                    self._give_up(asked, f"was silent for {self._patience.silence:g} s")
                case WaitVerdict.OVERDUE:
                    self._give_up(asked, f"was busy for {self._patience.cap:g} s")
                case WaitVerdict.WAIT:
                    pass

    def _give_up(self, asked: _Asked, did: str) -> NoReturn:
        tail = shown_tail(self.stderr_lines(40))
        last = f"; its last words: {tail[-1].strip()}" if tail else " and wrote nothing to stderr"
        raise ServerEnded(
            f"the server {did} and did not answer {asked.what}{last}",
            remediation=CHOOSE_ANOTHER,
            exit_=None,
            details={"stderr_tail": list(tail)},
        )

    async def _result(self, asked: _Asked) -> msgspec.Raw:
        message = asked.message
        if message is None:
            await self._explain(asked)
        if isinstance(message, Oversized):
            raise UpgradeFailed(
                f"the server's answer to {asked.what} has {message.size} bytes; the limit is {MESSAGE_LIMIT}",
                remediation=CHOOSE_ANOTHER,
            )
        if len(memoryview(message.error)):
            raise UpgradeFailed(
                f"the server answered {asked.what} with the error {_error_text(message.error)}",
                remediation=CHOOSE_ANOTHER,
            )
        return message.result

    async def _explain(self, asked: _Asked) -> NoReturn:
        with anyio.move_on_after(min(EXIT_GRACE, self._patience.silence)):
            raise _ended(f"it answered {asked.what}", await self._process.wait())
        self._give_up(asked, "closed its stdout, lives on,")

    # Hearing: these run as callbacks of the loop, outside any task.

    def _hear(self, line: str) -> None:
        self._output += 1
        self._heard(line)

    def _read(self, data: bytes) -> None:
        self._output += len(data)
        for frame in self._splitter.feed(data):
            self._take(frame)

    def _eof(self) -> None:
        for frame in self._splitter.end():
            self._take(frame)
        self._over = True
        asked, self._asked = self._asked, {}
        for each in asked.values():
            each.done.set()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Oversized):
            self._answered(frame.id, frame)
            return
        for line in split_batch(frame) or (frame,):
            try:
                message = decode_message(line)
            except ProtocolError:
                self.noise += 1
                continue
            if message.method is UNSET:
                self._answered(None if message.id is UNSET else message.id, message)
            elif message.id is not UNSET and message.id is not None:
                self._wire.write(_reply(message.id, message.method))

    def _answered(self, id_: RequestId | None, message: Message | Oversized) -> None:
        asked = self._asked.pop(id_, None) if id_ is not None else None
        if asked is not None:
            asked.message = message
            asked.done.set()


def _reply(id_: RequestId, method: str) -> bytes:
    match method:
        case "ping":
            return encode_result(id_, {})
        case "roots/list":
            return encode_result(id_, {"roots": []})
        case _:
            return encode_error(id_, METHOD_NOT_FOUND, f"mcpkeep only tries this server: no {method}")


def _ended(before: str, exit_: Exit) -> ServerEnded:
    why = explain_end(exit_)
    return ServerEnded(
        f"the server {why.cause}, before {before}",
        remediation=why.remedy,
        exit_=exit_,
        details={"stderr_tail": list(shown_tail(exit_.stderr_tail))},
    )


def _error_text(error: msgspec.Raw) -> str:
    try:
        body = msgspec.json.decode(error, type=ErrorBody)
    except msgspec.DecodeError:
        return bytes(error).decode(errors="replace")[:300]
    return f"{body.code}: {body.message}"
