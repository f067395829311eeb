"""The child actor between a fake host and a fake relay: what it does, in which order, and when."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import TaskGroup
from trio.testing import MockClock

from mcpkeep.actors.actor import ActorStopped
from mcpkeep.actors.child import ChildActor
from mcpkeep.protocol.child import (
    ChildSettings,
    ChildState,
    ChildStatus,
    GetStatus,
    Notify,
    ReplaceMode,
    RestartChild,
    RestartDone,
    RestartFailed,
    StartChild,
    StopChild,
    Wanted,
)
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.protocol.replacement import (
    ChildPrepared,
    Dropped,
    DropPrepared,
    EndFrozen,
    PrepareChild,
    PrepareFailed,
    PromoteDone,
    PromotePrepared,
    SwitchRefused,
)
from mcpkeep.protocol.restart import RestartPolicy
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildExited,
    ChildFrozen,
    ChildPromoted,
    ChildReady,
    ChildThawed,
    ChildUnavailable,
    ChildWedged,
    Exit,
    RelayOrder,
)
from tests.actors.fake_process import CLEAN, KILLED, FakeProcess

pytestmark = pytest.mark.anyio

STEADY = ChildSettings(restart=RestartPolicy(intensity=0, backoff_base=0))
JUMPING = pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class World:
    """Host, relay and log of one child actor; `happened` is their common history."""

    def __init__(self) -> None:
        self.happened: list[RelayOrder | str] = []
        self.notices: list[Notify] = []
        self.processes: dict[int, FakeProcess] = {}
        self.spawned_at: list[float] = []
        self.failing = False
        self.stubborn = False
        self.dying = False
        self.on_order: Callable[[RelayOrder], None] | None = None
        self.gate: anyio.Event | None = None
        self.chance = 1.0
        self.releases: list[str | None] = []
        self.crashes: list[tuple[str | None, Exit, int]] = []

    async def spawn(self, generation: int, release: str | None) -> FakeProcess:
        self.happened.append(f"spawn {generation}")
        self.releases.append(release)
        self.spawned_at.append(anyio.current_time())
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise SpawnError("server", "no such file")
        process = self.processes[generation] = FakeProcess(generation, stubborn=self.stubborn)
        if self.dying:
            process.end(Exit(code=1))
        return process

    def order(self, order: RelayOrder) -> None:
        self.happened.append(order)
        if self.on_order is not None:
            self.on_order(order)

    def actor(
        self, settings: ChildSettings = STEADY, *, clock: Callable[[], float] | None = None
    ) -> ChildActor:
        return ChildActor(
            "server",
            settings,
            host=self,
            relay=self,
            notify=self.notices.append,
            chance=lambda: self.chance,
            release="old",
            crashed=self.crash,
            clock=clock or anyio.current_time,
        )

    def crash(self, release: str | None, exit_: Exit, times: int) -> None:
        self.crashes.append((release, exit_, times))

    def take(self) -> list[RelayOrder | str]:
        taken, self.happened = self.happened, []
        return taken

    @property
    def alive(self) -> list[int]:
        return [generation for generation, process in self.processes.items() if process.exit is None]


@asynccontextmanager
async def group(within: float = 5) -> AsyncGenerator[TaskGroup]:
    """A task group that fails rather than hangs."""
    with anyio.fail_after(within):
        async with anyio.create_task_group() as tasks:
            yield tasks


@asynccontextmanager
async def running(actor: ChildActor, within: float = 5) -> AsyncGenerator[ChildActor]:
    async with group(within) as tasks:
        await tasks.start(actor.run)
        yield actor
        actor.stop()


async def settle() -> None:
    await anyio.wait_all_tasks_blocked()


async def ask_restart(actor: ChildActor, mode: ReplaceMode, answers: list[object]) -> None:
    try:
        answers.append(await actor.ask(RestartChild(mode), within=1000))
    except ActorStopped:
        answers.append("the actor has stopped")


async def test_the_first_child_is_spawned_and_attached_before_the_actor_reports_started() -> None:
    world = World()
    async with running(world.actor()) as actor:
        assert world.take() == ["spawn 1", ChildAttached(1)]
        actor.tell(ChildReady(1))
        status = await actor.ask(GetStatus(), within=5)
        assert status == ChildStatus(
            command="server",
            state=ChildState.UP,
            wanted=Wanted.UP,
            ready=True,
            generation=1,
            pid=1001,
            uptime=status.uptime,
            restarts=0,
            last_exit=None,
            restart_failed=None,
            retry_in=None,
            candidate=None,
            leaving=(),
            release="old",
        )
        assert status.uptime is not None


async def test_after_a_crash_the_next_child_is_spawned_before_anybody_is_told() -> None:
    world = World()
    async with running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        await settle()
        world.take()
        world.processes[1].end()
        await settle()
        assert world.take() == ["spawn 2", ChildExited(1, KILLED, 7), ChildAttached(2)]
        actor.tell(ChildReady(1))  # late
        assert not (await actor.ask(GetStatus(), within=5)).ready


async def test_a_restart_by_overlap_is_answered_when_the_new_child_serves_and_the_old_one_ends_drained() -> (
    None
):
    world, answers = World(), list[object]()
    async with running(world.actor()) as actor, group() as askers:
        actor.tell(ChildReady(1))
        await settle()
        world.take()
        for _ in range(2):  # the second joins the first
            askers.start_soon(ask_restart, actor, ReplaceMode.OVERLAP, answers)
        await settle()
        assert answers == []
        actor.tell(ChildReady(2))
        await settle()
        assert answers == [RestartDone(2), RestartDone(2)]
        assert world.alive == [1, 2]
        actor.tell(ChildDrained(1))
        await settle()
        assert world.alive == [2]
        assert world.take() == [
            "spawn 2",
            ChildAttached(2),
            ChildPromoted(2),
            ChildExited(1, CLEAN, 7, planned=True),
        ]


async def test_a_restart_by_hold_never_has_two_children() -> None:
    world, answers = World(), list[object]()
    async with running(world.actor()) as actor, group() as askers:
        actor.tell(ChildReady(1))
        await settle()
        world.take()
        askers.start_soon(ask_restart, actor, ReplaceMode.HOLD, answers)
        await settle()
        actor.tell(ChildDrained(1))
        await settle()
        assert world.alive == [2]
        actor.tell(ChildReady(2))
        await settle()
        assert answers == [RestartDone(2)]
        assert world.take() == [
            CallsHeld(),
            "spawn 2",
            ChildExited(1, CLEAN, 7, planned=True),
            ChildAttached(2),
        ]


async def test_a_candidate_that_dies_answers_the_restart_and_leaves_the_old_child() -> None:
    world, answers = World(), list[object]()
    async with running(world.actor()) as actor, group() as askers:
        actor.tell(ChildReady(1))
        askers.start_soon(ask_restart, actor, ReplaceMode.OVERLAP, answers)
        await settle()
        world.processes[2].end(Exit(code=1))
        await settle()
        assert answers == [RestartFailed("server exited with code 1", kept=True)]
        assert world.alive == [1]


async def test_a_wedged_child_is_killed_and_replaced() -> None:
    world = World()
    world.stubborn = True
    async with running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        actor.tell(ChildWedged(1, "silent"))
        await settle()
        assert world.processes[1].exit == KILLED
        assert world.alive == [2]
        world.processes[2].end()


async def test_a_command_that_does_not_exist_is_told_once_and_a_restart_tries_again() -> None:
    world, answers = World(), list[object]()
    world.failing = True
    async with running(world.actor()) as actor, group() as askers:
        spawn, unavailable = world.take()
        assert spawn == "spawn 1"
        assert isinstance(unavailable, ChildUnavailable)
        assert unavailable.exit == Exit(spawn_error="no such file")
        assert (await actor.ask(GetStatus(), within=5)).state is ChildState.FAILED
        world.failing = False
        askers.start_soon(ask_restart, actor, ReplaceMode.OVERLAP, answers)
        await settle()
        actor.tell(ChildReady(2))
        await settle()
        assert answers == [RestartDone(2)]
        assert world.take() == ["spawn 2", ChildAttached(2)]


async def test_a_child_is_stopped_and_started_on_request() -> None:
    world = World()
    async with running(world.actor()) as actor:
        actor.tell(StopChild())
        await settle()
        assert world.alive == []
        assert (await actor.ask(GetStatus(), within=5)).state is ChildState.DOWN
        actor.tell(StartChild())
        await settle()
        assert world.alive == [2]


async def test_a_thousand_kills_of_a_ready_child_are_each_followed_by_the_next_child() -> None:
    world = World()
    async with running(world.actor()) as actor:

        def kill_the_next(order: RelayOrder) -> None:
            if isinstance(order, ChildAttached):
                actor.tell(ChildReady(order.generation))
                if order.generation <= 1000:
                    world.processes.pop(order.generation).end()

        world.on_order = kill_the_next
        kill_the_next(ChildAttached(1))
        await settle()
        status = await actor.ask(GetStatus(), within=5)
        assert (status.generation, status.restarts, status.ready) == (1001, 1000, True)
        assert world.alive == [1001]
        assert len([what for what in world.happened if isinstance(what, ChildExited)]) == 1000


@pytest.mark.parametrize("way", ["stop", "cancel", "error"])
async def test_whatever_way_the_actor_ends_its_children_have_ended_and_the_relay_was_told(way: str) -> None:
    world, answers = World(), list[object]()
    actor = world.actor()

    def break_it(order: RelayOrder) -> None:
        if isinstance(order, ChildPromoted):
            raise ZeroDivisionError("broken on purpose")

    async with group() as askers:
        try:
            async with group() as tasks:
                await tasks.start(actor.run)
                actor.tell(ChildReady(1))
                askers.start_soon(ask_restart, actor, ReplaceMode.OVERLAP, answers)
                await settle()
                assert world.alive == [1, 2]
                match way:
                    case "stop":
                        actor.stop()
                    case "cancel":
                        tasks.cancel_scope.cancel()
                    case _:
                        world.on_order = break_it
                        actor.tell(ChildReady(2))
        except BaseExceptionGroup as raised:
            assert way == "error"
            assert raised.subgroup(ZeroDivisionError) is not None
    assert world.alive == []
    assert {what.generation for what in world.happened if isinstance(what, ChildExited)} == {1, 2}
    stopped = RestartFailed("server was stopped", kept=False)
    assert answers == ["the actor has stopped" if way == "error" else stopped]


async def test_a_child_that_is_being_spawned_when_the_actor_is_cancelled_is_ended() -> None:
    world = World()
    actor = world.actor()
    world.gate = anyio.Event()
    async with group() as tasks:
        tasks.start_soon(actor.run)
        await settle()
        tasks.cancel_scope.cancel()
        world.gate.set()
    assert world.processes[1].exit is not None


async def test_an_exit_finds_its_way_through_a_full_inbox() -> None:
    world = World()
    actor = ChildActor(
        "server", STEADY, host=world, relay=world, notify=world.notices.append, chance=lambda: 0, capacity=1
    )
    async with running(actor):
        actor.tell(ChildReady(1))
        await settle()
        world.processes[1].end()
        actor.tell(StartChild())
        actor.tell(StartChild())
        await settle()
        assert world.alive == [2]


@JUMPING
class TestInTime:
    """Under a clock that jumps."""

    async def test_a_crash_loop_of_hours_backs_off_and_never_goes_on_before_its_time(self) -> None:
        world = World()
        world.dying = True
        policy = RestartPolicy(intensity=0, backoff_base=1, backoff_factor=10, backoff_max=3600)
        async with running(world.actor(ChildSettings(restart=policy)), 1e6):
            start = world.spawned_at[0]
            with anyio.move_on_after(3 * 3600):
                await anyio.sleep_forever()
            delays = [
                later - earlier
                for earlier, later in zip(world.spawned_at, world.spawned_at[1:], strict=False)
            ]
            assert [round(delay, 6) for delay in delays] == [1, 1, 10, 100, 1000, 3600, 3600]
            assert world.spawned_at[-1] - start < 3 * 3600

    async def test_a_clock_of_its_own_does_not_move_the_deadlines(self) -> None:
        world = World()
        world.dying = True
        zero = anyio.current_time()
        policy = RestartPolicy(intensity=0, backoff_base=10)
        settings = ChildSettings(restart=policy)
        async with running(
            world.actor(settings, clock=lambda: anyio.current_time() - zero + 5e5), 1e6
        ) as actor:
            with anyio.move_on_after(15):
                await anyio.sleep_forever()
            assert [round(at - zero, 6) for at in world.spawned_at] == [0, 10]
            status = await actor.ask(GetStatus(), within=5)
            assert status.retry_in is not None
            assert round(status.retry_in, 6) == 5

    async def test_an_old_child_that_never_drains_and_never_listens_is_gone_after_all_graces(self) -> None:
        world, answers = World(), list[object]()
        world.stubborn = True
        async with running(world.actor(), 1e6) as actor, group(1e6) as askers:
            actor.tell(ChildReady(1))
            askers.start_soon(ask_restart, actor, ReplaceMode.OVERLAP, answers)
            await settle()
            actor.tell(ChildReady(2))
            await settle()
            start = anyio.current_time()
            await world.processes[1].wait()
            assert anyio.current_time() - start == pytest.approx(30 + 2 + 2)
            assert world.alive == [2]

    async def test_a_candidate_that_is_never_ready_is_ended_at_the_start_limit(self) -> None:
        world = World()
        async with running(world.actor(), 1e6) as actor:
            actor.tell(ChildReady(1))
            start = anyio.current_time()
            outcome = await actor.ask(RestartChild(), within=10_000)
            reason = "the new child was not ready within 900 s"
            assert outcome == RestartFailed(reason, kept=True)
            assert anyio.current_time() - start == pytest.approx(900)
            await settle()
            assert world.alive == [1]

    @pytest.mark.parametrize("cancelled", [False, True])
    async def test_stubborn_children_are_killed_after_the_graces_all_at_once(self, cancelled: bool) -> None:
        world = World()
        world.stubborn = True
        actor, begun = world.actor(), list[float]()
        async with group(1e6) as tasks:
            await tasks.start(actor.run)
            actor.tell(ChildReady(1))
            actor.tell(RestartChild())
            await settle()
            assert world.alive == [1, 2]
            begun.append(anyio.current_time())
            if cancelled:
                tasks.cancel_scope.cancel()
            else:
                actor.stop()
        assert anyio.current_time() - begun[0] == pytest.approx(4)
        assert world.alive == []

    async def test_a_stop_that_hangs_is_cut_short_by_a_kill(self) -> None:
        class Hanging(FakeProcess):
            async def stop(self, *, eof_grace: float | None, term_grace: float) -> Exit:
                with anyio.CancelScope():
                    await anyio.sleep_forever()
                return await self.wait()

        class HangingWorld(World):
            async def spawn(self, generation: int, release: str | None) -> FakeProcess:
                process = self.processes[generation] = Hanging(generation)
                return process

        world = HangingWorld()
        start = anyio.current_time()
        async with running(world.actor(), 1e6):
            pass
        assert anyio.current_time() - start == pytest.approx(4 + 5)
        assert world.alive == []


# Releases


async def prepared(actor: ChildActor, release: str, generation: int) -> object:
    """Prepare the release, whose child is ready as soon as that is told."""
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await actor.ask(PrepareChild(release), within=5))

    async with group() as tasks:
        tasks.start_soon(ask)
        await settle()
        actor.tell(ChildReady(generation))
    return answers[0]


async def promoted(actor: ChildActor, *, freeze: bool, drained: int) -> object:
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await actor.ask(PromotePrepared(freeze=freeze), within=5))

    async with group() as tasks:
        tasks.start_soon(ask)
        await settle()
        assert answers == [], "not before the old one is frozen or gone"
        actor.tell(ChildDrained(drained))
    return answers[0]


async def test_a_release_is_prepared_promoted_and_the_old_one_frozen_and_woken_again() -> None:
    world = World()
    async with running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        assert await prepared(actor, "new", 2) == ChildPrepared(2)
        assert (actor.release, actor.frozen, world.releases) == ("old", None, ["old", "new"])
        world.take()
        assert await promoted(actor, freeze=True, drained=1) == PromoteDone(2, frozen=True)
        assert world.take() == [ChildPromoted(2), ChildFrozen(1, 7)]
        assert (actor.release, actor.frozen, actor.ready) == ("new", "old", True)
        assert world.processes[1].frozen
        assert await actor.ask(PrepareChild("old"), within=5) == ChildPrepared(1, woken=True)
        assert world.processes[1].frozen
        assert await promoted(actor, freeze=False, drained=2) == PromoteDone(1, frozen=False)
        assert world.take() == [ChildThawed(1), ChildPromoted(1), ChildExited(2, CLEAN, 7, planned=True)]
        assert not world.processes[1].frozen
        assert (actor.release, actor.frozen) == ("old", None)


async def test_an_old_child_with_a_half_written_line_is_killed_instead_of_frozen() -> None:
    world = World()
    async with running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        await prepared(actor, "new", 2)
        world.processes[1].wire.queued = 5
        await promoted(actor, freeze=True, drained=1)
        await settle()
        assert world.processes[1].exit == KILLED
        assert actor.frozen is None


async def test_whoever_asks_twice_is_refused_alone() -> None:
    world = World()
    first: list[object] = []

    async def ask(actor: ChildActor) -> None:
        first.append(await actor.ask(PrepareChild("new"), within=5))

    async with group() as tasks, running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        tasks.start_soon(ask, actor)
        await settle()
        second = await actor.ask(PrepareChild("newer"), within=5)
        assert isinstance(second, SwitchRefused)
        assert first == []
        assert await actor.ask(DropPrepared(), within=5) == Dropped()
        await settle()
        assert first == [PrepareFailed("release 'new' was dropped", kept=True)]


async def test_a_frozen_child_is_killed_on_demand_and_at_the_end() -> None:
    world = World()
    async with running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        for release, generation in (("new", 2), ("newer", 3)):
            await prepared(actor, release, generation)
            await promoted(actor, freeze=True, drained=generation - 1)
        await settle()
        assert world.processes[1].exit == KILLED, "there is one frozen child at most"
        actor.tell(EndFrozen())
        await settle()
        assert world.processes[2].exit == KILLED
        await prepared(actor, "last", 4)
        await promoted(actor, freeze=True, drained=3)
    assert world.alive == []


async def test_each_crash_of_the_serving_child_is_told_with_its_release() -> None:
    world = World()
    async with running(world.actor()) as actor:
        actor.tell(ChildReady(1))
        await prepared(actor, "new", 2)
        world.processes[2].end()
        await settle()
        assert world.crashes == [], "it never served"
        world.processes[1].end()
        await settle()
        world.processes[3].end()
        await settle()
    assert world.crashes == [("old", KILLED, 1), ("old", KILLED, 2)]
