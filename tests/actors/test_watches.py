"""What asks the child actor for restarts of its own accord: the memory limit, and changed files."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from trio.testing import MockClock

from mcpkeep.actors.actor import Actor, Envelope
from mcpkeep.actors.memory import INTERVAL, watch_memory
from mcpkeep.actors.watcher import watch_files
from mcpkeep.protocol.child import (
    ChildEvent,
    ChildState,
    ChildStatus,
    GetStatus,
    Notify,
    RestartChild,
    RestartDone,
    RestartFailed,
    RestartOutcome,
    Wanted,
)

pytestmark = pytest.mark.anyio

MIB = 2**20
JUMPING = pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def status(generation: int = 1, *, candidate: int | None = None, ready: bool = True) -> ChildStatus:
    return ChildStatus(
        command="server",
        state=ChildState.UP if candidate is None else ChildState.OVERLAP,
        wanted=Wanted.UP,
        ready=ready,
        generation=generation,
        pid=1000 + generation,
        uptime=1.0,
        restarts=0,
        last_exit=None,
        restart_failed=None,
        retry_in=None,
        candidate=candidate,
        leaving=(),
    )


class FakeChild(Actor[ChildEvent | GetStatus]):
    """Answers with what it was given; remembers why it was to restart, and when."""

    def __init__(self) -> None:
        super().__init__("child")
        self.status = status()
        self.outcomes: list[RestartOutcome] = []
        self.reasons: list[str] = []
        self.asked_at: list[float] = []

    async def receive(self, envelope: Envelope[ChildEvent | GetStatus]) -> None:
        match envelope.message:
            case GetStatus():
                envelope.answer(self.status)
            case RestartChild(reason=reason):
                self.reasons.append(reason)
                self.asked_at.append(anyio.current_time())
                following = RestartDone(self.status.generation + 1)
                outcome = self.outcomes.pop(0) if self.outcomes else following
                if isinstance(outcome, RestartDone):
                    self.status = status(outcome.generation)
                elif self.status.candidate is not None:
                    self.status = status(self.status.generation)
                envelope.answer(outcome)
            case other:
                raise AssertionError(f"nobody tells it {other!r}")


@asynccontextmanager
async def running(child: FakeChild) -> AsyncGenerator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(child.run)
        yield tasks
        tasks.cancel_scope.cancel()


# Memory


class FakeMeter:
    """Measures what is set for a pid; `done` is set at the measurement after the last."""

    def __init__(self, *held: int | None) -> None:
        self.held_in_turn = list(held)
        self.pids: list[int] = []
        self.done = anyio.Event()

    async def held(self, pid: int) -> int | None:
        self.pids.append(pid)
        if not self.held_in_turn:
            self.done.set()
            return None
        return self.held_in_turn.pop(0)


async def measured(child: FakeChild, *held: int | None) -> tuple[FakeMeter, list[Notify], float]:
    """Measure these in turn; the meter, what was told, and when it began."""
    meter = FakeMeter(*held)
    notices: list[Notify] = []
    began = anyio.current_time()

    async def watch() -> None:
        await watch_memory(child=child, meter=meter, limit=100 * MIB, notify=notices.append, restart_limit=10)

    async with running(child) as tasks:
        tasks.start_soon(watch)
        await meter.done.wait()
    return meter, notices, began


@JUMPING
async def test_a_child_above_its_limit_is_asked_to_restart_and_the_next_one_measured() -> None:
    child = FakeChild()
    meter, notices, began = await measured(child, 50 * MIB, 150 * MIB, 50 * MIB)
    assert child.reasons == ["its process tree holds 150.0 MiB, above limits.memory = 100.0 MiB"]
    assert child.asked_at == [began + 2 * INTERVAL]
    assert meter.pids == [1001, 1001, 1002, 1002]
    assert notices == []


@JUMPING
async def test_a_fresh_child_above_the_limit_is_told_once_and_left_for_a_minute() -> None:
    child = FakeChild()
    _, notices, began = await measured(child, *[150 * MIB] * 13)
    assert child.asked_at == [began + INTERVAL, began + INTERVAL + 60]
    assert [(notice.level, "Raise the limit" in notice.text) for notice in notices] == [("warning", True)]


@JUMPING
async def test_a_child_that_is_gone_or_being_replaced_is_not_judged() -> None:
    child = FakeChild()
    child.status = status(candidate=2)

    async def promoted() -> None:
        await anyio.sleep(3 * INTERVAL + 1)
        child.status = status(2)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(promoted)
        assert (await measured(child, None))[0].pids == [1002, 1002]
    assert child.reasons == []


# Files


class FakeChanges:
    """Tells these one after the other, and then that all were taken."""

    def __init__(self, *changes: Sequence[str]) -> None:
        self._changes = changes
        self.taken = anyio.Event()

    async def watch(self) -> AsyncIterator[Sequence[str]]:
        for paths in self._changes:
            yield paths
        self.taken.set()
        await anyio.sleep_forever()


async def changed(child: FakeChild, *changes: Sequence[str]) -> list[Notify]:
    told = FakeChanges(*changes)
    notices: list[Notify] = []

    async def watch() -> None:
        await watch_files(child=child, changes=told, notify=notices.append, restart_limit=10)

    with anyio.fail_after(5):
        async with running(child) as tasks:
            tasks.start_soon(watch)
            await told.taken.wait()
    return notices


async def test_each_change_restarts_the_child_and_names_what_changed() -> None:
    child = FakeChild()
    assert await changed(child, ["/a.py"], ["/a.py", "/b.py", "/c.py"]) == []
    assert child.reasons == ["/a.py changed", "/a.py and 2 more changed"]


async def test_a_change_during_a_restart_that_had_begun_before_it_leads_to_another() -> None:
    child = FakeChild()
    child.status = status(1, candidate=2)
    child.outcomes = [RestartDone(2), RestartDone(3)]
    notices = await changed(child, ["/a.py"])
    assert child.reasons == ["/a.py changed", "/a.py changed"]
    assert notices == [Notify("info", "/a.py changed; the server starts again after the restart under way")]


async def test_a_restart_under_way_that_fails_is_followed_by_one_with_the_changed_file() -> None:
    child = FakeChild()
    child.status = status(1, candidate=2)
    child.outcomes = [RestartFailed("it was broken", kept=True), RestartDone(3)]
    await changed(child, ["/a.py"])
    assert len(child.reasons) == 2


async def test_a_restart_that_fails_is_not_repeated_until_the_next_change() -> None:
    child = FakeChild()
    child.outcomes = [RestartFailed("it was broken", kept=True), RestartDone(3)]
    await changed(child, ["/a.py"], ["/b.py"])
    assert child.reasons == ["/a.py changed", "/b.py changed"]
