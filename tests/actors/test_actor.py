"""The actor: its inbox, its answers, its control lane, its end; on both backends."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from mcpkeep.actors.actor import Actor, ActorStopped, AskTimedOut, Envelope, InboxFull
from mcpkeep.protocol.question import Question

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Add(Question[int], frozen=True):
    amount: int


class Never(Question[int], frozen=True):
    """A question whose answer does not come by itself."""


class Release(Question[None], frozen=True):
    """Answer the Nevers."""


class Break(Question[None], frozen=True):
    """Fail."""


class Block(Question[None], frozen=True):
    """Be busy until the gate opens."""


class Counter(Actor[Add | Never | Release | Break | Block]):
    def __init__(self, capacity: int = 2) -> None:
        super().__init__("counter", capacity=capacity, leave_limit=5)
        self.total = 0
        self.log: list[str] = []
        self.busy = anyio.Event()
        self.gate = anyio.Event()
        self.kept: list[Envelope[Add | Never | Release | Break | Block]] = []

    async def begin(self) -> None:
        self.log.append("begin")

    async def receive(self, envelope: Envelope[Add | Never | Release | Break | Block]) -> None:
        match envelope.message:
            case Add(amount):
                self.total += amount
                envelope.answer(self.total)
            case Never():
                self.kept.append(envelope)
            case Release():
                for kept in self.kept:
                    kept.answer(-1)
                envelope.answer(None)
            case Break():
                raise ZeroDivisionError("broken on purpose")
            case Block():
                self.busy.set()
                await self.gate.wait()
                self.log.append("unblocked")
                envelope.answer(None)

    async def leave(self) -> None:
        await checkpoint()  # raises here if it is not shielded
        self.log.append("leave")


@asynccontextmanager
async def group(within: float = 5) -> AsyncGenerator[TaskGroup]:
    """A task group that fails rather than hangs."""
    with anyio.fail_after(within):
        async with anyio.create_task_group() as tasks:
            yield tasks


async def _asks(tasks: TaskGroup, actor: Counter, question: Question[object], errors: list[object]) -> None:
    """Ask in a task; record how it ended. Returns once the question is on its way."""

    async def ask(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            errors.append(await actor.ask(question, within=60))
        except ActorStopped as error:
            errors.append(str(error))

    await tasks.start(ask)
    await anyio.wait_all_tasks_blocked()


STOPPED = "actor 'counter' has stopped; nothing it is sent is answered"


async def test_messages_are_received_in_order_and_a_question_gets_its_answer() -> None:
    actor = Counter()
    actor.tell(Add(1))  # before it runs
    async with group() as tasks:
        await tasks.start(actor.run)
        assert await actor.ask(Add(2), within=5) == 3
        actor.stop()
    assert actor.log == ["begin", "leave"]


async def test_an_answer_may_come_while_other_messages_are_received() -> None:
    actor, answers = Counter(), list[object]()
    async with group() as tasks:
        await tasks.start(actor.run)
        await _asks(tasks, actor, Never(), answers)
        assert await actor.ask(Add(1), within=5) == 1
        await actor.ask(Release(), within=5)
        await anyio.wait_all_tasks_blocked()
        assert answers == [-1]
        actor.stop()


async def test_telling_a_full_inbox_raises_and_says_how_full_it_is() -> None:
    actor = Counter(capacity=2)
    actor.tell(Add(1))
    actor.tell(Add(1))
    with pytest.raises(InboxFull, match="'counter' has 2 messages waiting and takes no more"):
        actor.tell(Add(1))
    actor.stop()


async def test_delivering_to_a_full_inbox_waits_for_room() -> None:
    actor = Counter(capacity=1)
    actor.tell(Add(1))
    async with group() as tasks:
        tasks.start_soon(actor.deliver, Add(2))
        await anyio.wait_all_tasks_blocked()
        await tasks.start(actor.run)
        assert await actor.ask(Add(0), within=5) == 3
        actor.stop()


async def test_stop_gets_through_to_a_busy_actor_whose_inbox_is_full() -> None:
    actor, answers = Counter(capacity=1), list[object]()
    async with group() as tasks:
        await tasks.start(actor.run)
        await _asks(tasks, actor, Block(), answers)
        await actor.busy.wait()
        await _asks(tasks, actor, Add(1), answers)  # fills the inbox
        await _asks(tasks, actor, Add(1), answers)  # waits for room
        actor.stop()
        actor.gate.set()
        await actor.stopped()
    assert actor.log == ["begin", "unblocked", "leave"]
    assert sorted(map(str, answers)) == sorted([STOPPED, STOPPED, "None"])
    assert actor.total == 0


@pytest.mark.parametrize("way", ["stop", "cancel", "break"])
async def test_everybody_who_waits_for_an_answer_is_told_when_the_actor_leaves(way: str) -> None:
    actor, answers = Counter(), list[object]()
    async with group() as askers:
        try:
            async with group() as tasks:
                await tasks.start(actor.run)
                await _asks(askers, actor, Never(), answers)
                match way:
                    case "stop":
                        actor.stop()
                    case "cancel":
                        tasks.cancel_scope.cancel()
                    case _:
                        actor.tell(Break())
        except BaseExceptionGroup as raised:
            assert way == "break"
            assert raised.subgroup(ZeroDivisionError) is not None
        else:
            assert way != "break", "an actor's error goes to its task group"
    assert answers == [STOPPED]
    assert actor.log == ["begin", "leave"]


async def test_an_actor_that_has_left_refuses_questions_and_drops_what_it_is_told() -> None:
    actor = Counter(capacity=1)
    async with group() as tasks:
        await tasks.start(actor.run)
        actor.stop()
        await actor.stopped()
    for _ in range(3):
        actor.tell(Add(1))
        await actor.deliver(Add(1))
    with pytest.raises(ActorStopped):
        await actor.ask(Add(1), within=5)
    actor.stop()


async def test_an_actor_stopped_before_it_ran_answers_nobody_and_begins_nothing() -> None:
    actor, answers = Counter(), list[object]()
    async with group() as tasks:
        await _asks(tasks, actor, Add(1), answers)
        actor.stop()
        await tasks.start(actor.run)
    assert answers == [STOPPED]
    assert actor.log == []


async def test_a_message_handed_over_just_before_the_stop_is_received_and_the_next_one_is_not() -> None:
    actor = Counter()
    async with group() as tasks:
        await tasks.start(actor.run)
        await anyio.wait_all_tasks_blocked()
        actor.tell(Add(1))
        actor.tell(Add(10))
        actor.stop()
    assert actor.total == 1


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
class TestInTime:
    """Under a clock that jumps."""

    async def test_an_ask_raises_when_the_answer_does_not_come_in_time(self) -> None:
        actor = Counter()
        async with group(1000) as tasks:
            await tasks.start(actor.run)
            with pytest.raises(AskTimedOut, match="'counter' did not answer within 3 s"):
                await actor.ask(Never(), within=3)
            await actor.ask(Release(), within=3)  # the late answer goes nowhere
            assert await actor.ask(Add(1), within=3) == 1
            actor.stop()

    async def test_an_ask_that_finds_no_room_in_time_is_not_delivered(self) -> None:
        actor = Counter(capacity=1)
        actor.tell(Add(1))
        with pytest.raises(AskTimedOut):
            await actor.ask(Add(10), within=3)
        async with group(1000) as tasks:
            await tasks.start(actor.run)
            assert await actor.ask(Add(0), within=3) == 1
            actor.stop()

    async def test_a_deadline_elapses_when_due_and_never_cuts_a_message_short(self) -> None:
        start = anyio.current_time()
        elapsed: list[float] = []

        class Timed(Counter):
            def deadline(self) -> float | None:
                return None if elapsed else start + 10

            async def elapsed(self) -> None:
                elapsed.append(anyio.current_time() - start)
                self.stop()

        actor = Timed()
        async with group(1000) as tasks:
            await tasks.start(actor.run)
            actor.tell(Block())
            await actor.busy.wait()
            with anyio.move_on_after(25):
                await actor.stopped()
            actor.gate.set()
        assert elapsed == [25]
        assert actor.log == ["begin", "unblocked", "leave"]

    async def test_a_leave_that_hangs_is_cancelled_at_its_limit(self) -> None:
        class Hanging(Counter):
            async def leave(self) -> None:
                await anyio.sleep_forever()

        actor = Hanging()
        start = anyio.current_time()
        async with group(1000) as tasks:
            await tasks.start(actor.run)
            tasks.cancel_scope.cancel()
        assert anyio.current_time() - start == 5
