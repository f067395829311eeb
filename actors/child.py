"""The child actor: owns the processes, and carries out what `protocol/life.py` decides."""

from collections import deque
from collections.abc import Callable
from typing import Protocol, assert_never

import anyio
from anyio.abc import TaskGroup

from mcpkeep.actors.actor import Actor, Envelope
from mcpkeep.actors.interfaces import ChildHost, ChildProcess
from mcpkeep.protocol.child import (
    AnswerRestart,
    Child,
    ChildEvent,
    ChildSettings,
    DeadlinePassed,
    Exited,
    GetStatus,
    KillProcess,
    Notify,
    RestartChild,
    SpawnChild,
    Spawned,
    SpawnFailed,
    StartChild,
    StopChild,
    StopProcess,
    child_status,
    next_deadline,
)
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.protocol.life import step
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildExited,
    ChildPromoted,
    ChildUnavailable,
    RelayOrder,
)

__all__ = ["ChildActor", "ChildMessage", "RelayOrders"]

ChildMessage = ChildEvent | GetStatus

PromptEffect = StopProcess | KillProcess | Notify | AnswerRestart | RelayOrder
"""Every effect but SpawnChild, which alone is awaited."""

LEAVE_SLACK = 5.0
"""Seconds beyond the graces of a stop that a killed process may take to be gone."""


class RelayOrders(Protocol):
    """The relay, as the child actor sees it."""

    def order(self, order: RelayOrder) -> None:
        """Take the order, at once and in sequence. Never blocks, never raises."""
        ...


class ChildActor(Actor[ChildMessage]):
    """Keeps one child up. It spawns the first one before it reports started.

    Ask it GetStatus and RestartChild; tell it the relay's reports. When it leaves, every process has ended.
    """

    def __init__(
        self,
        command: str,
        settings: ChildSettings,
        *,
        host: ChildHost,
        relay: RelayOrders,
        notify: Callable[[Notify], None],
        chance: Callable[[], float],
        clock: Callable[[], float] = anyio.current_time,
        capacity: int = 256,
    ) -> None:
        """Take the collaborators.

        Args:
            command: as people are to read it.
            chance: a fresh number from 0 to 1 at each call.
            clock: seconds, running as `anyio.current_time` does, from a zero of its own.
        """
        self._grace = settings.stop_eof + settings.stop_term + LEAVE_SLACK
        super().__init__("child", capacity=capacity, leave_limit=self._grace + LEAVE_SLACK)
        self._child = Child(command, settings)
        self._host = host
        self._relay = relay
        self._notify = notify
        self._chance = chance
        self._clock = clock
        self._processes: dict[int, ChildProcess] = {}
        self._askers: list[Envelope[ChildMessage]] = []
        self._stops: TaskGroup | None = None

    async def begin(self) -> None:
        await self._happen(StartChild())

    async def receive(self, envelope: Envelope[ChildMessage]) -> None:
        match envelope.message:
            case GetStatus():
                envelope.answer(child_status(self._child, self._clock()))
            case RestartChild() as event:
                self._askers.append(envelope)
                await self._happen(event)
            case event:
                await self._happen(event)

    def deadline(self) -> float | None:
        due = next_deadline(self._child)
        return None if due is None else anyio.current_time() + due - self._clock()

    async def elapsed(self) -> None:
        await self._happen(DeadlinePassed())

    async def leave(self) -> None:
        """End every process: by the graces, and what is left after them by SIGKILL."""
        try:
            with anyio.move_on_after(self._grace):
                async with anyio.create_task_group() as tasks:
                    self._stops = tasks
                    await self._happen(StopChild())
                    for generation, process in self._processes.items():
                        tasks.start_soon(self._await_end, generation, process)
        finally:
            for process in self._processes.values():
                process.kill()
        for generation, process in tuple(self._processes.items()):
            await self._await_end(generation, process)

    async def _happen(self, event: ChildEvent) -> None:
        events: deque[ChildEvent] = deque([event])
        while events:
            event = events.popleft()
            if isinstance(event, Exited):
                self._processes.pop(event.generation, None)
            self._child, effects = step(self._child, event, now=self._clock(), chance=self._chance())
            for effect in effects:
                if isinstance(effect, SpawnChild):
                    events.append(await self._spawn(effect.generation))
                else:
                    self._perform(effect)

    async def _spawn(self, generation: int) -> Spawned | SpawnFailed:
        process: ChildProcess | None = None
        try:
            with anyio.CancelScope(shield=True):  # a process that nobody knows of would never be ended
                process = await self._host.spawn(generation)
        except SpawnError as error:
            return SpawnFailed(generation, error.reason)
        assert process is not None  # nobody cancels that scope
        self._processes[generation] = process
        self.tasks.start_soon(self._watch, generation, process)
        return Spawned(generation, process.pid)

    def _perform(self, effect: PromptEffect) -> None:
        match effect:
            case ChildAttached() | ChildPromoted() | CallsHeld() | ChildExited() | ChildUnavailable():
                self._relay.order(effect)
            case StopProcess():
                process = self._processes[effect.generation]
                (self._stops or self.tasks).start_soon(self._stop, process, effect)
            case KillProcess():
                self._processes[effect.generation].kill()
            case Notify():
                self._notify(effect)
            case AnswerRestart():
                for asker in self._askers:
                    asker.answer(effect.outcome)
                self._askers.clear()
            case _:
                assert_never(effect)

    async def _stop(self, process: ChildProcess, effect: StopProcess) -> None:
        await process.stop(eof_grace=effect.eof_grace, term_grace=effect.term_grace)

    async def _watch(self, generation: int, process: ChildProcess) -> None:
        exit_ = await process.wait()
        await self.deliver(Exited(generation, exit_, process.wire.accepted))

    async def _await_end(self, generation: int, process: ChildProcess) -> None:
        exit_ = await process.wait()
        await self._happen(Exited(generation, exit_, process.wire.accepted))
