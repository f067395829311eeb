"""The relay's tasks: calls of our own tools, deadlines, and our own requests until they are answered."""

import math
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Protocol, assert_never

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from msgspec import Raw

from mcpkeep.actors.wires import RelayWires, Work
from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.relay.jsonrpc import RequestId
from mcpkeep.protocol.relay.output import OwnAnswered, ToolCancelled
from mcpkeep.protocol.relay.tools import ToolCall, ToolCalled, ToolResult
from mcpkeep.protocol.switch import ChildDrained, ChildReady, ChildRefused, ChildWedged, RelayReport

__all__ = ["OwnTools", "RelayActor", "RequestFailed"]

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


class RelayActor:
    """Attends a relay's wires, once they are told so."""

    def __init__(
        self, wires: RelayWires, *, report: Callable[[RelayReport], None], client_gone: Callable[[], None]
    ) -> None:
        """`report` takes what the child actor has to know; `client_gone` is called when the client ends."""
        self._wires = wires
        self._relay = wires.relay
        self._report = report
        self._client_gone = client_gone
        self._running: dict[RequestId, anyio.CancelScope] = {}
        self._tools: OwnTools | None = None
        self._asked: dict[str, _Asked] = {}
        self._call_ended: anyio.Event | None = None
        self._jobs: list[Callable[[], Coroutine[None, None, None]]] = []
        self._alarm = anyio.Event()

    # What the wires hand on

    def perform(self, work: Work) -> None:
        match work:
            case ChildReady() | ChildRefused() | ChildDrained() | ChildWedged():
                self._report(work)
            case ToolCalled(call):
                scope = self._running[call.id] = anyio.CancelScope()
                self._start(partial(self._serve, call, scope))
            case OwnAnswered(id_):
                if (asked := self._asked.get(id_)) is not None:
                    asked.answer = work
                    asked.done.set()
            case ToolCancelled(id_):
                if (running := self._running.get(id_)) is not None:
                    running.cancel()
            case _:
                assert_never(work)

    def suspect(self, generation: int, what: str) -> None:
        self._start(partial(self._await_exit, generation, what))

    def client_gone(self) -> None:
        self._client_gone()

    def rearm(self) -> None:
        self._alarm.set()

    # What others ask

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
        self._wires.flush()
        try:
            with anyio.move_on_after(within):
                await asked.done.wait()
        finally:
            del self._asked[id_]
            if asked.answer is None:
                self._relay.own_requests.give_up(id_)
                self._wires.flush()
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
                self._wires.armed = self._relay.deadline()
                self._alarm = anyio.Event()
                if not self._jobs:
                    left = math.inf if self._wires.armed is None else self._wires.armed - self._wires.clock()
                    with anyio.move_on_after(left):
                        await self._alarm.wait()
                jobs, self._jobs = self._jobs, []
                for job in jobs:
                    tasks.start_soon(job)
                self._relay.tick(self._wires.clock())
                self._wires.flush()

    def _start(self, job: Callable[[], Coroutine[None, None, None]]) -> None:
        """Have run() start a task: what arrives from the loop's own callbacks must not start one itself."""
        self._jobs.append(job)
        self._alarm.set()

    async def _serve(self, call: ToolCall, scope: anyio.CancelScope) -> None:
        def progress(done: float, total: float | None, text: str) -> None:
            self._relay.progress(call.id, done, total, text)
            self._wires.flush()

        assert self._tools is not None  # run() has them
        try:
            with scope:
                await checkpoint()  # a call that was cancelled before it began does nothing
                result = await self._tools.call(call, progress)
                self._relay.answer(call.id, result)
                self._wires.flush()
        finally:
            if self._running.get(call.id) is scope:
                del self._running[call.id]
            if self._call_ended is not None:
                self._call_ended.set()

    async def _await_exit(self, generation: int, what: str) -> None:
        await anyio.sleep(SILENCE_GRACE)
        if self._wires.has(generation):
            self._report(ChildWedged(generation, f"{what} and lives on"))
