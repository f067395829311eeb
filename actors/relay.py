"""The relay at work: bytes in from either side, one synchronous step of `protocol.relay`, bytes out.

No frame crosses an inbox; only a call of one of our own tools becomes a task. Reading from one side stops
while the other does not take what it is sent, so a slow reader slows the writer down instead of filling
memory.
"""

import math
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Protocol, assert_never

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from msgspec import Raw

from mcpkeep.actors.interfaces import Wire
from mcpkeep.protocol.errors import McpkeepError, ProtocolError
from mcpkeep.protocol.relay.framing import Frame, LineSplitter
from mcpkeep.protocol.relay.head import read_head
from mcpkeep.protocol.relay.jsonrpc import RequestId
from mcpkeep.protocol.relay.output import Logged, OwnAnswered, RelayEffect, ToolCancelled
from mcpkeep.protocol.relay.relay import Relay
from mcpkeep.protocol.relay.tools import ToolCall, ToolCalled, ToolResult
from mcpkeep.protocol.switch import (
    ChildAttached,
    ChildDrained,
    ChildExited,
    ChildReady,
    ChildRefused,
    ChildWedged,
    RelayOrder,
    RelayReport,
)

__all__ = ["BACKLOG", "FLOODED", "HIGH_WATER", "OwnTools", "RelayActor", "RequestFailed"]

HIGH_WATER = 1024 * 1024
"""Bytes queued for one peer above which the other side is not read: what one pipe holds at most."""

FLOODED = 4 * HIGH_WATER
"""Bytes queued for the client above which it is not read either: sooner, and the end of a client that only
stopped reading would not be seen."""

BACKLOG = 8 * HIGH_WATER
"""Bytes queued for one child above which the client is not read. More than for the client: while a wedged
server takes nothing, the client must still get through to our own tools, `restart` above all."""

HELD_LIMIT = 64 * 1024 * 1024
"""Bytes of requests held for a child that is not up, above which the client is not read."""

SILENCE_GRACE = 1.0
"""Seconds that a child may live on after closing a pipe; an ordinary exit takes far less."""


class OwnTools(Protocol):
    """Serves the calls of our own tools."""

    async def call(self, call: ToolCall, progress: Callable[[float, float | None, str], None]) -> ToolResult:
        """Answer one call; cancelled when nobody waits any more. Raises nothing but cancellation.

        `progress` takes how far it is, the total if known, and a text.
        """
        ...


class RequestFailed(McpkeepError):
    """A request of our own was answered with an error, or not at all."""

    def __init__(self, method: str, reason: str, error: Raw | None = None) -> None:
        """`error` is the `error` member of the answer; None where there is no answer."""
        super().__init__(f"{method} failed: {reason}")
        self.method = method
        self.reason = reason
        self.error = error


class _Asked:
    """One request of our own on its way."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.answer: OwnAnswered | None = None


class _Peer:
    """One child's wire and its unfinished line."""

    def __init__(self, wire: Wire, limit: int) -> None:
        self.wire = wire
        self.lines = LineSplitter(limit)
        self.early: list[Frame] | None = []
        """What it wrote before the relay was told of it; None from then on."""
        self.early_size = 0


class RelayActor:
    """Drives a Relay. All methods but run() are synchronous and are called in the event loop's thread."""

    def __init__(
        self,
        relay: Relay,
        *,
        report: Callable[[RelayReport], None],
        log: Callable[[Logged], None],
        client_gone: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        max_message: int = 10 * 1024 * 1024,
        max_request: int = 64 * 1024 * 1024,
    ) -> None:
        """`report` takes what the child actor has to know; `client_gone` is called when the client ends.

        `max_message` bounds a line of a child, `max_request` one of the client, both in bytes.
        """
        self._relay = relay
        self._out = relay.output
        self._report = report
        self._log = log
        self._client_gone = client_gone
        self._clock = clock
        self._max_message = max_message
        self._client: Wire | None = None
        self._client_lines = LineSplitter(max_request)
        self._peers: dict[int, _Peer] = {}
        self._paused_client = False
        self._paused_children = False
        self._running: dict[RequestId, anyio.CancelScope] = {}
        self._tools: OwnTools | None = None
        self._asked: dict[str, _Asked] = {}
        self._call_ended: anyio.Event | None = None
        self._jobs: list[Callable[[], Coroutine[None, None, None]]] = []
        self._armed: float | None = None
        self._alarm = anyio.Event()

    # The client's side

    def connect_client(self, wire: Wire) -> None:
        """This is the client's wire; to be called once, before anything is read from it."""
        self._client = wire

    def client_data(self, data: bytes) -> None:
        frames, lane = self._client_lines.feed(data), self._relay.lane
        if len(frames) == 1:
            if (head := lane.plain_call(frame := frames[0])) is not None and isinstance(frame, bytes):
                assert lane.link is not None  # it has let it pass
                # Written first: the child need not wait for the rest.
                keeps_up = self._peers[lane.link.generation].wire.write(frame)
                lane.note_call(frame, head, self._clock())
                if not keeps_up or self._armed is None:
                    self._flush()
                    self._balance()
                return
            now = self._clock()
        elif passed := lane.calls(frames, now := self._clock()):
            assert lane.link is not None  # it has let them pass
            wire = self._peers[lane.link.generation].wire
            keeps_up = wire.write(passed[0] if len(passed) == 1 else b"".join(passed))
            if not keeps_up or self._armed is None:
                self._flush()
                self._balance()
            if len(passed) == len(frames):
                return
            frames = frames[len(passed) :]
        self._relay.from_client(frames, now)
        self._flush()

    def client_eof(self) -> None:
        self._relay.from_client(self._client_lines.end(), self._clock())
        self._flush()
        self._client_gone()

    def client_broken(self) -> None:
        self._client_gone()

    def client_writable(self) -> None:
        self._balance()

    # The children's side

    def connect(self, generation: int, wire: Wire) -> None:
        self._peers[generation] = _Peer(wire, self._max_message)
        if self._paused_children:
            wire.pause_reading()

    def child_data(self, generation: int, data: bytes) -> None:
        peer = self._peers.get(generation)
        if peer is None:
            return
        frames = peer.lines.feed(data)
        if peer.early is not None:
            peer.early += frames
            peer.early_size += len(data)
            if peer.early_size > HIGH_WATER:
                peer.wire.pause_reading()
            return
        lane, client = self._relay.lane, self._client
        if len(frames) == 1:
            call = lane.plain_answer(generation, frame := frames[0])
            if call is not None and client is not None and isinstance(frame, bytes):
                keeps_up = client.write(frame)
                lane.note_answer(call, self._clock())
                if not keeps_up:
                    self._balance()
                return
            now = self._clock()
        elif (passed := lane.answers(generation, frames, now := self._clock())) and client is not None:
            if not client.write(passed[0] if len(passed) == 1 else b"".join(passed)):
                self._balance()
            if len(passed) == len(frames):
                return
            frames = frames[len(passed) :]
        self._relay.from_child(generation, frames, now)
        self._flush()

    def child_eof(self, generation: int) -> None:
        self._suspect(generation, "it closed its stdout")

    def child_broken(self, generation: int) -> None:
        self._suspect(generation, "it closed its stdin")

    def child_writable(self, generation: int) -> None:
        self._balance()

    # Orders of the child actor, and ourselves

    def order(self, order: RelayOrder) -> None:
        """Take an order of the child actor, and send what follows from it."""
        now = self._clock()
        early: list[Frame] = []
        match order:
            case ChildExited(generation) if (peer := self._peers.pop(generation, None)) is not None:
                self._relay.from_child(generation, self._whole(peer.lines.end()), now)
            case ChildAttached(generation) if (peer := self._peers.get(generation)) is not None:
                early, peer.early = peer.early or [], None
                if peer.early_size > HIGH_WATER and not self._paused_children:
                    peer.wire.resume_reading()
            case _:
                pass
        self._relay.order(order, now)
        if isinstance(order, ChildAttached):
            self._relay.from_child(order.generation, early, now)
        self._flush()
        self._balance()

    def _whole(self, frames: list[Frame]) -> list[Frame]:
        """A dead child's last line, if it is a message that lacks but its newline; half of one is nothing."""
        whole: list[Frame] = []
        for frame in frames:
            if not isinstance(frame, bytes):
                continue
            try:
                read_head(frame)
            except ProtocolError:
                self._log(Logged("warning", f"the server died within a line: {frame[:200]!r}"))
            else:
                whole.append(frame)
        return whole

    def notice(self, level: str, text: str) -> None:
        """Tell the client through its log, where it listens."""
        self._relay.notice(level, text)
        self._flush()

    def early_notice(self, level: str, text: str) -> None:
        """Tell the client so, or the one that is yet to come."""
        self._relay.early_notice(level, text)
        self._flush()

    @property
    def is_attended(self) -> bool:
        """Whether a client has opened its session, and a child serves it."""
        return self._relay.is_attended

    def client_can(self, capability: str) -> bool:
        """Whether the client takes requests of this kind, such as `elicitation`.

        Never in the modern era (2026-07-28): there a server asks by an `input_required` result only.
        """
        return self._relay.opening.client_can(capability)

    async def request(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        within: float,
        generation: int | None = None,
    ) -> Raw:
        """Ask the serving child, or that one, which may be a prepared one; the `result` of its answer.

        The client hears nothing of it. Seconds.

        Raises:
            RequestFailed: the child answered with an error, ended or was frozen first, took longer, or
                there is none with an open session.
        """
        id_ = self._relay.own_requests.ask_child(generation or self._relay.serving, method, params)
        if id_ is None:
            raise RequestFailed(method, "no MCP server is up that has a session with a client")
        return await self._answer_to(id_, method, within)

    async def ask_client(self, method: str, params: Mapping[str, object], *, within: float) -> Raw:
        """Ask the client, such as by `elicitation/create`; the `result` of its answer. Seconds.

        Raises:
            RequestFailed: the client did not declare the capability that the method begins with, or its era
                has no such requests; it answered with an error; it took longer.
        """
        id_ = self._relay.own_requests.ask_client(method, params)
        if id_ is None:
            raise RequestFailed(method, "the client takes no such requests")
        return await self._answer_to(id_, method, within)

    async def _answer_to(self, id_: str, method: str, within: float) -> Raw:
        asked = self._asked[id_] = _Asked()
        self._flush()
        try:
            with anyio.move_on_after(within):
                await asked.done.wait()
        finally:
            del self._asked[id_]
            if asked.answer is None:
                self._relay.own_requests.give_up(id_)
                self._flush()
        answer = asked.answer
        if answer is None:
            raise RequestFailed(method, f"there was no answer within {within:g} s")
        if answer.result is not None:
            return answer.result
        reason = answer.lost or bytes(answer.error or b"")[:500].decode(errors="replace")
        raise RequestFailed(method, reason, answer.error)

    async def finish_calls(self) -> None:
        """Wait until no call of our own tools is under way."""
        while self._running:
            self._call_ended = anyio.Event()
            await self._call_ended.wait()

    async def run(
        self, tools: OwnTools, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve our own tools and keep the relay's deadlines until cancelled."""
        self._tools = tools
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                self._armed = self._relay.deadline()
                self._alarm = anyio.Event()
                if not self._jobs:
                    left = math.inf if self._armed is None else self._armed - self._clock()
                    with anyio.move_on_after(left):
                        await self._alarm.wait()
                jobs, self._jobs = self._jobs, []
                for job in jobs:
                    tasks.start_soon(job)
                self._relay.tick(self._clock())
                self._flush()

    def _flush(self) -> None:
        """Send and do all that the relay wants."""
        out, keeps_up = self._out, True
        if out.client:
            data = out.client[0] if len(out.client) == 1 else b"".join(out.client)
            out.client.clear()
            if self._client is not None:
                keeps_up = self._client.write(data)
        if out.child:
            for generation, frames in out.child.items():
                if (peer := self._peers.get(generation)) is not None:
                    keeps_up &= peer.wire.write(frames[0] if len(frames) == 1 else b"".join(frames))
            out.child.clear()
        if out.effects:
            effects, out.effects = out.effects, []
            for effect in effects:
                self._perform(effect)
        if self._armed is None or self._relay.calls.held_bytes:
            self._rearm()
            keeps_up &= self._relay.calls.held_bytes <= HELD_LIMIT
        if not keeps_up or self._paused_client:
            self._balance()

    def _rearm(self) -> None:
        """Have run() wake up sooner, if the relay's deadline has moved forward."""
        due = self._relay.deadline()
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self._alarm.set()

    def _balance(self) -> None:
        """Read from each side only while the other takes what it is sent."""
        client_slow = self._client is not None and self._client.queued > HIGH_WATER
        serving = self._peers.get(self._relay.serving)  # one that drains is sent next to nothing any more
        child_slow = serving is not None and serving.wire.queued > BACKLOG
        if client_slow != self._paused_children:
            self._paused_children = client_slow
            for peer in self._peers.values():
                peer.wire.pause_reading() if client_slow else peer.wire.resume_reading()
        flooded = self._client is not None and self._client.queued > FLOODED
        pause = flooded or child_slow or self._relay.calls.held_bytes > HELD_LIMIT
        if self._client is not None and pause != self._paused_client:
            self._paused_client = pause
            self._client.pause_reading() if pause else self._client.resume_reading()

    def _perform(self, effect: RelayEffect) -> None:
        match effect:
            case ChildReady() | ChildRefused() | ChildDrained() | ChildWedged():
                self._report(effect)
            case Logged():
                self._log(effect)
            case ToolCalled(call):
                scope = self._running[call.id] = anyio.CancelScope()
                self._start(partial(self._serve, call, scope))
            case OwnAnswered(id_):
                if (asked := self._asked.get(id_)) is not None:
                    asked.answer = effect
                    asked.done.set()
            case ToolCancelled(id_):
                if (running := self._running.get(id_)) is not None:
                    running.cancel()
            case _:
                assert_never(effect)

    def _start(self, job: Callable[[], Coroutine[None, None, None]]) -> None:
        """Have run() start a task: what arrives from the loop's own callbacks must not start one itself."""
        self._jobs.append(job)
        self._alarm.set()

    async def _serve(self, call: ToolCall, scope: anyio.CancelScope) -> None:
        def progress(done: float, total: float | None, text: str) -> None:
            self._relay.progress(call.id, done, total, text)
            self._flush()

        assert self._tools is not None  # run() has them
        try:
            with scope:
                await checkpoint()  # a call that was cancelled before it began does nothing
                result = await self._tools.call(call, progress)
                self._relay.answer(call.id, result)
                self._flush()
        finally:
            if self._running.get(call.id) is scope:
                del self._running[call.id]
            if self._call_ended is not None:
                self._call_ended.set()

    def _suspect(self, generation: int, what: str) -> None:
        if generation in self._peers:
            self._start(partial(self._await_exit, generation, what))

    async def _await_exit(self, generation: int, what: str) -> None:
        await anyio.sleep(SILENCE_GRACE)
        if generation in self._peers:
            self._report(ChildWedged(generation, f"{what} and lives on"))
