"""The upgrade actor's probation under a clock that jumps: kept, ended on time, a crash loop within it."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import pytest
from trio.testing import MockClock

from mcpkeep.actors.upgrade import UpgradeActor
from mcpkeep.actors.upgrade_world import UpgradeWorld
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.upgrade.change import ChangeRecord
from mcpkeep.protocol.upgrade.facts import TargetFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeSettings
from mcpkeep.protocol.upgrade.probation import CRASHES, PERIOD, Probation
from mcpkeep.protocol.upgrade.request import ServerCrashed
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})]),
]

START = datetime(2026, 1, 31, tzinfo=UTC)


class World:
    """What probation touches of the world; each noun is this one object."""

    def __init__(self) -> None:
        self.began = anyio.current_time()
        self.saved: list[Probation | None] = []
        self.told: list[str] = []
        self.ended_at: list[float] = []
        self.asked: list[str] = []
        self.current = "new"

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds())

    def seconds(self) -> float:
        return anyio.current_time() - self.began

    def notify(self, notify: Notify) -> None:
        self.told.append(notify.text)

    async def mark(self, session_id: str, reason: str) -> None:
        self.asked.append(f"{session_id}: {reason}")

    def bug(self, error: Exception) -> str:
        raise error

    async def save_probation(self, probation: Probation | None) -> None:
        self.saved.append(probation)

    async def end_frozen(self) -> None:
        self.ended_at.append(self.seconds())

    async def inspect(self) -> TargetFacts:
        return TargetFacts(
            exists=True,
            structure_valid=True,
            bytes_available=0,
            content_bytes=0,
            command=(),
            current_release=self.current,
            current_version=None,
            releases=(),
            problems=(),
        )

    # What a rollback begins with; it comes no further.

    async def open(self) -> tuple[()]:
        return ()

    async def acquire(self, session_id: str) -> None:
        self.asked.append("rollback")
        raise UpgradeFailed("the lock is held", remediation="wait")

    async def ask(self, _question: object, *, within: float) -> tuple[()]:
        return ()  # backups

    async def records(self) -> tuple[ChangeRecord, ...]:
        return (ChangeRecord(1, "s-1", "upgrade", START, "old", "new", "backup", True, {}),)

    async def record_rollback(self, report: RollbackReport) -> str:
        return report.session_id

    release = "new"


async def with_actor(
    world: World, probation: Probation | None, work: Callable[[UpgradeActor], Awaitable[None]]
) -> None:
    it = cast("Any", world)
    parts = UpgradeWorld(
        sources=it,
        targets=it,
        contents=it,
        lock=it,
        journals=it,
        changes=it,
        live=it,
        candidates=it,
        validation=it,
        records=it,
        backups=it,
        installer=it,
        now=world.now,
        clock=world.seconds,
        new_id=lambda: "1",
        scratch=str,
    )
    actor = UpgradeActor(
        parts,
        UpgradeSettings(),
        notify=world.notify,
        mark_rolled_back=world.mark,
        on_bug=world.bug,
        probation=probation,
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(actor.run)
        await work(actor)
        actor.stop()


def lasting(seconds: float, *, release: str = "new") -> Probation:
    return Probation("s-1", release, "old", START + timedelta(seconds=seconds))


async def test_one_that_began_before_a_restart_ends_on_time_and_the_frozen_server_with_it() -> None:
    world = World()

    async def wait(_: UpgradeActor) -> None:
        await anyio.sleep(299)
        assert (world.saved, world.ended_at) == ([], [])
        await anyio.sleep(2)

    await with_actor(world, lasting(300), wait)
    assert (world.saved, world.ended_at) == ([None], [300])
    assert world.told == ["new has served its probation"]


async def test_one_whose_end_passed_while_nothing_ran_ends_at_once() -> None:
    world = World()
    await with_actor(world, lasting(-5), lambda _: anyio.sleep(1))
    assert (world.saved, world.ended_at) == ([None], [0])


async def test_one_of_a_release_that_was_gone_back_over_meanwhile_is_forgotten() -> None:
    world = World()
    world.current = "old"
    await with_actor(world, lasting(300), lambda _: anyio.sleep(400))
    assert (world.saved, world.told) == ([None], [])


async def test_a_crash_loop_calls_for_a_rollback_and_its_failure_is_told() -> None:
    world = World()

    async def crash(actor: UpgradeActor) -> None:
        for n in range(CRASHES):
            assert world.asked == []
            actor.tell(ServerCrashed("new", f"signal {n}"))
            await anyio.sleep(1)

    await with_actor(world, lasting(300), crash)
    assert world.asked == ["rollback"]
    looping, failed = world.told
    assert looping == "new crashes again and again (signal 2): rolling back"
    assert "the lock is held; release new stands" in failed


@pytest.mark.parametrize("why", ["another release", "too far apart", "after its end"])
async def test_crashes_that_are_no_loop_of_the_new_version_call_for_nothing(why: str) -> None:
    world = World()
    release = "old" if why == "another release" else "new"
    gap = PERIOD / (CRASHES - 1) + 1 if why == "too far apart" else 1

    async def crash(actor: UpgradeActor) -> None:
        if why == "after its end":
            await anyio.sleep(301)
        for _ in range(CRASHES):
            actor.tell(ServerCrashed(release, "signal 11"))
            await anyio.sleep(gap)

    await with_actor(world, lasting(300), crash)
    assert world.asked == []
