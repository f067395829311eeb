"""The child actor: owns the processes, and carries out what `protocol/life.py` decides."""

from collections import deque
from collections.abc import Callable
from typing import Protocol, assert_never

import anyio
from anyio.abc import TaskGroup

from mcpkeep.actors.actor import Actor, Envelope
from mcpkeep.actors.interfaces import ChildHost, ChildProcess
from mcpkeep.protocol.child import (
    AnswerAsker,
    AnswerDrop,
    AnswerPrepare,
    AnswerPromote,
    AnswerRestart,
    Child,
    ChildEvent,
    ChildSettings,
    Crashed,
    DeadlinePassed,
    Exited,
    FreezeProcess,
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
    ThawProcess,
    child_status,
    next_deadline,
)
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.protocol.life import step
from mcpkeep.protocol.replacement import Dropped, DropPrepared, PrepareChild, PromotePrepared
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildExited,
    ChildFrozen,
    ChildPromoted,
    ChildThawed,
    ChildUnavailable,
    Exit,
    RelayOrder,
)

__all__ = ["ChildActor", "ChildMessage", "RelayOrders"]

ChildMessage = ChildEvent | GetStatus

Crash = Callable[[str | None, Exit, int], None]
"""Takes the release that ended unasked, how, and how often in a row; never blocks or raises."""

PromptEffect = (
    StopProcess
    | KillProcess
    | FreezeProcess
    | ThawProcess
    | Crashed
    | Notify
    | AnswerRestart
    | AnswerPrepare
    | AnswerPromote
    | AnswerDrop
    | AnswerAsker
    | RelayOrder
)
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

    Ask it GetStatus, RestartChild, PrepareChild, PromotePrepared and DropPrepared; tell it EndFrozen and the
    relay's reports. When it leaves, every process has ended.
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
        release: str | None = None,
        crashed: Crash | None = None,
        clock: Callable[[], float] = anyio.current_time,
        capacity: int = 256,
    ) -> None:
        """Take the collaborators.

        Args:
            command: as people are to read it.
            release: what the first child is of; None is the command as configured.
            crashed: told of each end of the serving child that nobody asked for.
            chance: a fresh number from 0 to 1 at each call.
            clock: seconds, running as `anyio.current_time` does, from a zero of its own.
        """
        self._grace = settings.stop_eof + settings.stop_term + LEAVE_SLACK
        super().__init__("child", capacity=capacity, leave_limit=self._grace + LEAVE_SLACK)
        self._child = Child(command, settings, release=release)
        self._host = host
        self._relay = relay
        self._notify = notify
        self._crashed = crashed
        self._chance = chance
        self._clock = clock
        self._processes: dict[int, ChildProcess] = {}
        self._askers: list[Envelope[ChildMessage]] = []
        self._switchers: list[Envelope[ChildMessage]] = []
        self._stops: TaskGroup | None = None

    @property
    def release(self) -> str | None:
        """What serves, or is to; None is the command as configured."""
        return self._child.release

    @property
    def ready(self) -> bool:
        """Whether a child serves."""
        return self._child.ready

    @property
    def pid(self) -> int | None:
        """Of the current process; None where there is none."""
        return None if self._child.current is None else self._child.current.pid

    @property
    def frozen(self) -> str | None:
        """The release of the frozen child; None where there is none."""
        return None if self._child.frozen is None else self._child.frozen.release

    async def begin(self) -> None:
        await self._happen(StartChild())

    async def receive(self, envelope: Envelope[ChildMessage]) -> None:
        match envelope.message:
            case GetStatus():
                envelope.answer(child_status(self._child, self._clock()))
            case RestartChild() as event:
                self._askers.append(envelope)
                await self._happen(event)
            case PrepareChild() | PromotePrepared() | DropPrepared() as event:
                self._switchers.append(envelope)
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
                    events.append(await self._spawn(effect))
                else:
                    self._perform(effect)

    async def _spawn(self, effect: SpawnChild) -> Spawned | SpawnFailed:
        generation = effect.generation
        process: ChildProcess | None = None
        try:
            with anyio.CancelScope(shield=True):  # a process that nobody knows of would never be ended
                process = await self._host.spawn(generation, effect.release)
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
            case ChildFrozen() | ChildThawed():
                self._relay.order(effect)
            case StopProcess():
                process = self._processes[effect.generation]
                (self._stops or self.tasks).start_soon(self._stop, process, effect)
            case KillProcess():
                self._processes[effect.generation].kill()
            case FreezeProcess():
                self._freeze(self._processes[effect.generation], effect.generation)
            case ThawProcess():
                self._relay.order(ChildThawed(effect.generation))
                self._processes[effect.generation].thaw()
            case Crashed():
                if self._crashed is not None:
                    self._crashed(effect.release, effect.exit, effect.times)
            case Notify():
                self._notify(effect)
            case AnswerRestart():
                for asker in self._askers:
                    asker.answer(effect.outcome)
                self._askers.clear()
            case AnswerPrepare():
                self._answer(PrepareChild, effect.outcome)
            case AnswerPromote():
                self._answer(PromotePrepared, effect.outcome)
            case AnswerDrop():
                self._answer(DropPrepared, Dropped())
            case AnswerAsker():
                self._switchers.pop().answer(effect.outcome)  # the last: this step is about its question
            case _:
                assert_never(effect)

    def _freeze(self, process: ChildProcess, generation: int) -> None:
        """Stop it where it stands. With a line of ours half written it could never be woken: it is killed."""
        wire = process.wire
        if wire.queued:
            process.kill()
        else:
            process.freeze()
        self._relay.order(ChildFrozen(generation, wire.accepted))

    def _answer(self, question: type[ChildMessage], outcome: object) -> None:
        for asker in [asker for asker in self._switchers if isinstance(asker.message, question)]:
            self._switchers.remove(asker)
            asker.answer(outcome)

    async def _stop(self, process: ChildProcess, effect: StopProcess) -> None:
        await process.stop(eof_grace=effect.eof_grace, term_grace=effect.term_grace)

    async def _watch(self, generation: int, process: ChildProcess) -> None:
        exit_ = await process.wait()
        await self.deliver(Exited(generation, exit_, process.wire.accepted))

    async def _await_end(self, generation: int, process: ChildProcess) -> None:
        exit_ = await process.wait()
        await self._happen(Exited(generation, exit_, process.wire.accepted))
