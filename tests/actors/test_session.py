"""The session actor over a store in memory: order, durability before memory, cancellation, pages."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import msgspec
import pytest

from mcpkeep.actors.session import (
    Changed,
    Deleted,
    News,
    Overtaken,
    SessionActor,
    SessionPage,
    WriterNeeded,
)
from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound, StateConflict, StorageFailed
from mcpkeep.protocol.workflow.session import Session, SessionError, Status, summarize
from mcpkeep.protocol.workflow.snapshot import Stored, store

pytestmark = pytest.mark.anyio

T0 = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
ERROR = SessionError(1, T0, "ValidationError", "no")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sid(n: int) -> str:
    return f"{n:08x}-6a1c-4c59-9d0b-1f2e3d4c5b6a"


def begin(n: int, target_file: str = "a.py") -> Session:
    return rules.start(
        sid(n), workflow_type="w", target_file=target_file, first_phase=1, last_phase=3, now=T0
    )


@dataclass
class Memory:
    """A store whose disk is a dict; each save can be held, and the next ones made to fail."""

    disk: dict[str, Stored] = field(default_factory=dict[str, Stored])
    news: list[News] = field(default_factory=list[News])
    failures: list[Exception] = field(default_factory=list[Exception])
    held_by: str | None = None
    writing: bool = False
    closed: bool = False
    saving: set[str] = field(default_factory=set[str])
    most_at_once: int = 0
    gate: anyio.Event | None = None
    saves: int = 0

    async def refresh(self) -> News:
        await anyio.lowlevel.checkpoint()
        return self.news.pop(0) if self.news else News()

    async def acquire(self) -> News:
        await anyio.lowlevel.checkpoint()
        if self.held_by is not None:
            raise StateConflict(f"being changed by {self.held_by}", "end it")
        self.writing = True
        return self.news.pop(0) if self.news else News()

    async def save(self, session: Session) -> Stored:
        key = session.session_id
        assert key not in self.saving, "the changes of one session are serial"
        self.saving.add(key)
        self.saves += 1
        self.most_at_once = max(self.most_at_once, len(self.saving))
        try:
            if self.gate is not None:
                await self.gate.wait()
            await anyio.lowlevel.checkpoint()
            if not self.writing:
                raise WriterNeeded
            if self.failures:
                raise self.failures.pop(0)
            self.disk[key] = store(session)
            return self.disk[key]
        finally:
            self.saving.remove(key)

    async def delete(self, session_id: str, *, reason: str | None, now: datetime) -> bool:
        await anyio.lowlevel.checkpoint()
        if not self.writing:
            raise WriterNeeded
        if self.failures:
            raise self.failures.pop(0)
        self.saving.add(session_id)
        if self.gate is not None:
            await self.gate.wait()
        self.saving.remove(session_id)
        del self.disk[session_id]
        return True

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


@dataclass
class Desk:
    """An actor, its store, and a clock that goes on by a second with each look."""

    memory: Memory
    actor: SessionActor
    seconds: int = 0


@pytest.fixture
async def desk() -> Desk:
    return await a_desk(Memory())


async def a_desk(memory: Memory) -> Desk:
    ids = iter(range(1, 1000))
    desk: Desk

    def now() -> datetime:
        desk.seconds += 1
        return T0 + timedelta(seconds=desk.seconds)

    desk = Desk(memory, SessionActor(store=memory, now=now, new_id=lambda: sid(next(ids))))
    await desk.actor.load()
    return desk


async def start(desk: Desk, target_file: str = "a.py") -> Session:
    started = await desk.actor.start(
        workflow_type="w", target_file=target_file, first_phase=1, last_phase=2, options={"x": 1}
    )
    return started.session


async def test_a_workflow_runs_from_start_to_the_end_and_each_answer_is_on_disk(desk: Desk) -> None:
    session = await start(desk)
    assert desk.memory.disk == {session.session_id: store(session)}
    actor, key = desk.actor, session.session_id
    steps: list[tuple[Callable[[], Awaitable[Changed]], Status]] = [
        (lambda: actor.refuse_gate(key, 1, evidence={"half": 1}, error=ERROR), Status.ACTIVE),
        (lambda: actor.retry(key, 1, reset_evidence=True), Status.ACTIVE),
        (lambda: actor.pass_gate(key, 1, evidence={"a": 1}), Status.ACTIVE),
        (lambda: actor.pause(key, note="lunch"), Status.PAUSED),
        (lambda: actor.resume(key), Status.ACTIVE),
        (lambda: actor.fail(key, error=ERROR), Status.FAILED),
        (lambda: actor.undo(key), Status.ROLLED_BACK),
        (lambda: actor.record_error(key, error=ERROR), Status.ROLLED_BACK),
        (lambda: actor.roll_back(key, 1), Status.ACTIVE),
        (lambda: actor.pass_gate(key, 1, evidence={"a": 2}), Status.ACTIVE),
        (lambda: actor.pass_gate(key, 2, evidence={"b": 2}), Status.COMPLETED),
    ]
    for step, status in steps:
        before = await actor.get(key)
        changed = await step()
        assert changed.before == before
        assert changed.after.status is status
        assert await actor.get(key) == changed.after
        assert desk.memory.disk[key] == store(changed.after)
    assert (await actor.get(key)).error_count == 3


async def test_a_change_whose_write_fails_leaves_memory_as_it_was(desk: Desk) -> None:
    session = await start(desk)
    desk.memory.failures = [StorageFailed("disk full", "free some")] * 3
    with pytest.raises(StorageFailed):
        await desk.actor.pass_gate(session.session_id, 1, evidence={})
    with pytest.raises(StorageFailed):
        await start(desk)
    with pytest.raises(StorageFailed):
        await desk.actor.delete(session.session_id)
    assert await desk.actor.get(session.session_id) == session
    assert (await desk.actor.list()).sessions == (summarize(session),)
    await desk.actor.pass_gate(session.session_id, 1, evidence={})


async def test_a_change_that_the_rules_refuse_writes_nothing(desk: Desk) -> None:
    session = await start(desk)
    saves = desk.memory.saves
    with pytest.raises(StateConflict, match="resume needs a session that is paused"):
        await desk.actor.resume(session.session_id)
    assert desk.memory.saves == saves


async def test_the_changes_of_one_session_are_serial_and_none_is_lost(desk: Desk) -> None:
    session = await start(desk)
    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(lambda: desk.actor.record_error(session.session_id, error=ERROR))
    after = await desk.actor.get(session.session_id)
    assert (after.error_count, after.revision) == (30, 31)


async def test_different_sessions_do_not_wait_for_each_other(desk: Desk) -> None:
    keys = [(await start(desk)).session_id for _ in range(30)]
    for key in keys:
        await desk.actor.pause(key)
    desk.memory.gate = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(desk.actor.resume, key)
            while len(desk.memory.saving) < 30:
                await anyio.lowlevel.checkpoint()
            assert (await desk.actor.get(keys[0])).status is Status.PAUSED, "reads see what is durable"
            desk.memory.gate.set()
    assert (await desk.actor.list(Status.ACTIVE)).count == 30


async def test_a_cancelled_caller_does_not_undo_or_split_a_change(desk: Desk) -> None:
    session = await start(desk)
    desk.memory.gate = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def call() -> None:
                await desk.actor.pause(session.session_id)

            group.start_soon(call)
            while not desk.memory.saving:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
            desk.memory.gate.set()
    after = await desk.actor.get(session.session_id)
    assert after.status is Status.PAUSED
    assert desk.memory.disk[session.session_id] == store(after)


async def test_a_second_client_is_told_what_the_first_one_changed(desk: Desk) -> None:
    seen = await start(desk)
    await desk.actor.pass_gate(seen.session_id, 1, evidence={}, seen=seen)
    with pytest.raises(StateConflict, match="changed the session first: current_phase 1 -> 2"):
        await desk.actor.pause(seen.session_id, seen=seen)
    assert (await desk.actor.get(seen.session_id)).status is Status.ACTIVE


async def test_of_many_who_decided_by_the_same_state_one_wins(desk: Desk) -> None:
    seen = await start(desk)
    outcomes: list[str] = []

    async def client() -> None:
        try:
            await desk.actor.pass_gate(seen.session_id, 1, evidence={}, seen=seen)
            outcomes.append("won")
        except StateConflict:
            outcomes.append("told")

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(client)
    assert sorted(outcomes) == ["told"] * 9 + ["won"]


async def test_the_first_change_becomes_the_writer_and_decides_on_what_changed_until_then(
    desk: Desk,
) -> None:
    memory = Memory(news=[News(changed={sid(7): store(begin(7))})])
    actor = (await a_desk(memory)).actor
    assert (await actor.get(sid(7)), memory.writing) == (begin(7), False)
    advanced = rules.pass_gate(begin(7), 1, evidence={}, now=T0)
    memory.news = [News(), News(changed={sid(7): store(advanced), sid(8): store(begin(8))})]
    await actor.get(sid(7))
    changed = await actor.pause(sid(7))
    assert (changed.before, changed.after.current_phase) == (advanced, 2)
    assert (await actor.get(sid(8))) == begin(8)


async def test_a_session_that_the_last_writer_deleted_is_not_found(desk: Desk) -> None:
    memory = Memory(news=[News(changed={sid(7): store(begin(7))})])
    actor = (await a_desk(memory)).actor
    memory.news = [News(removed=(sid(7),))]
    with pytest.raises(NotFound):
        await actor.pause(sid(7))
    assert memory.disk == {}


async def test_while_another_process_writes_reads_go_on_and_changes_name_it(desk: Desk) -> None:
    memory = Memory(news=[News(changed={sid(7): store(begin(7))})], held_by="pid 42 (Cursor)")
    actor = (await a_desk(memory)).actor
    with pytest.raises(StateConflict, match=r"being changed by pid 42 \(Cursor\)"):
        await actor.pause(sid(7))
    advanced = rules.pass_gate(begin(7), 1, evidence={}, now=T0)
    memory.news = [News(changed={sid(7): store(advanced)})]
    assert await actor.get(sid(7)) == advanced
    memory.held_by = None
    await actor.pause(sid(7))


async def test_a_lock_that_is_lost_again_and_again_ends_in_an_error(desk: Desk) -> None:
    session = await start(desk)
    desk.memory.failures = [WriterNeeded()] * 10
    with pytest.raises(StorageFailed, match="removed again and again"):
        await desk.actor.pause(session.session_id)


async def test_an_edit_on_disk_is_taken_in_and_told(desk: Desk) -> None:
    session = await start(desk)
    edited = msgspec.structs.replace(session, target_file="b.py")
    desk.memory.failures = [
        Overtaken("was changed on disk", "read again", store(edited)),
        Overtaken("cannot be used", "repeat", None),
    ]
    with pytest.raises(StateConflict, match="was changed on disk") as refused:
        await desk.actor.pause(session.session_id)
    assert refused.value.remediation == "read again"
    assert await desk.actor.get(session.session_id) == edited
    with pytest.raises(StateConflict, match="cannot be used"):
        await desk.actor.pause(session.session_id)
    assert await desk.actor.get(session.session_id) == edited


async def test_start_names_unfinished_sessions_of_the_same_work_and_reuses_none(desk: Desk) -> None:
    one, two, done, other = [await start(desk, t) for t in ("a.py", "a.py", "a.py", "b.py")]
    await desk.actor.undo(done.session_id)
    await desk.actor.pause(one.session_id)
    started = await desk.actor.start(workflow_type="w", target_file="a.py", first_phase=1, last_phase=2)
    assert [s.session_id for s in started.existing] == [one.session_id, two.session_id]
    assert started.session.session_id not in {s.session_id for s in (one, two, done, other)}


async def test_an_id_that_is_taken_is_never_overwritten() -> None:
    memory = Memory(news=[News(changed={sid(1): store(begin(1))}, blocked={sid(2): "too new"})])
    desk = await a_desk(memory)
    for _ in range(2):
        memory.news = []
        with pytest.raises(StateConflict, match="exists already"):
            await start(desk)
    assert memory.disk == {}


async def test_deleting_twice_succeeds_twice(desk: Desk) -> None:
    session = await start(desk)
    assert await desk.actor.delete(session.session_id, reason="r") == Deleted(True, True)
    assert await desk.actor.delete(session.session_id) == Deleted(False, False)
    with pytest.raises(NotFound):
        await desk.actor.get(session.session_id)


async def test_deleting_nothing_does_not_make_this_process_the_writer(desk: Desk) -> None:
    await desk.actor.delete(sid(9))
    assert desk.memory.writing is False


async def test_a_change_that_waited_for_a_deletion_finds_nothing_and_resurrects_nothing(desk: Desk) -> None:
    session = await start(desk)
    desk.memory.gate = anyio.Event()

    async def change() -> None:
        with pytest.raises(NotFound):
            await desk.actor.record_error(session.session_id, error=ERROR)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: desk.actor.delete(session.session_id))
            while not desk.memory.saving:
                await anyio.lowlevel.checkpoint()
            for _ in range(5):
                group.start_soon(change)
            await anyio.lowlevel.checkpoint()
            desk.memory.gate.set()
    assert desk.memory.disk == {}
    assert (await desk.actor.list()).count == 0


async def test_lists_are_pages_of_the_newest_in_the_asked_status() -> None:
    sessions = [msgspec.structs.replace(begin(n), last_updated=T0 + timedelta(seconds=n)) for n in range(250)]
    sessions[7] = rules.pause(sessions[7], now=T0)
    news = News(changed={s.session_id: store(s) for s in sessions}, warnings=("one is damaged",))
    actor = (await a_desk(Memory(news=[news]))).actor
    page = await actor.list()
    assert page == SessionPage(tuple(summarize(s) for s in sessions[:149:-1]), 250, ())
    rest = await actor.list(limit=200, offset=200)
    assert (len(rest.sessions), rest.count, rest.sessions[-1].session_id) == (50, 250, sid(0))
    assert await actor.list(Status.PAUSED) == SessionPage((summarize(sessions[7]),), 1, ())


async def test_an_unknown_id_is_answered_with_close_ones_and_a_bad_one_refused(desk: Desk) -> None:
    session = await start(desk)
    with pytest.raises(NotFound) as missing:
        await desk.actor.get(sid(2))
    assert session.session_id in missing.value.remediation
    for call in (desk.actor.get, desk.actor.pause, desk.actor.delete):
        with pytest.raises(InvalidArgument):
            await call("../../etc/passwd")


async def test_a_session_that_cannot_be_served_says_why_and_is_not_deleted() -> None:
    actor = (await a_desk(Memory(news=[News(blocked={sid(1): "schema 2"})] * 4))).actor
    for call in (actor.get, actor.pause, actor.delete):
        with pytest.raises(StateConflict, match="schema 2"):
            await call(sid(1))


async def test_closing_waits_for_changes_under_way(desk: Desk) -> None:
    session = await start(desk)
    desk.memory.gate = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: desk.actor.pause(session.session_id))
            while not desk.memory.saving:
                await anyio.lowlevel.checkpoint()
            group.start_soon(desk.actor.close)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert desk.memory.closed is False
            desk.memory.gate.set()
    assert desk.memory.closed is True
    assert (await desk.actor.get(session.session_id)).status is Status.PAUSED
