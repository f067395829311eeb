"""An upgrade that is ended, disturbed, or met by another: signals, edits in the middle, the lock's owners."""

import signal
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from mcpkeep.supervisor.upgrade.lock import HeldLock
from tests.killing import (
    EDITED,
    Struck,
    doomed,
    edited_world,
    layout_of,
    require_nothing_left,
    require_served,
    require_whole,
    state_of,
    strike,
    upgrade_words,
)
from tests.praxis import World
from tests.upgrades import LIMIT, session_in

pytestmark = pytest.mark.anyio

PLACES = (
    "backup_store._fill",
    "installer._make_from",
    "changes.prepare",
    "changes.swap_rest",
    "records.write_records",
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Struck:
    world = edited_world(tmp_path_factory.mktemp("usual"))
    done = strike(world, -1, *upgrade_words(world))
    assert done.code == 0, done.err
    return done


def first_at(trace: list[str], place: str) -> int:
    return next(number for number, line in enumerate(trace) if place in line)


@pytest.mark.parametrize("place", PLACES)
async def test_an_upgrade_ended_by_sigterm_takes_itself_back_and_leaves_nothing(
    tmp_path: Path, usual: Struck, place: str
) -> None:
    world = edited_world(tmp_path / "world")
    old = state_of(world)
    ended = strike(world, first_at(usual.trace, place), *upgrade_words(world), number=signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM, ended.err
    assert ended.err.splitlines()[-1] == "mcpkeep upgrade: ended by SIGTERM"
    assert require_whole(world, old, old) == "old"
    require_nothing_left(world)
    await require_served(world, "old")


@pytest.mark.parametrize("place", ["changes.swap_rest", "records.write_validation"])
async def test_an_agents_upgrade_ended_by_sigterm_goes_on_where_it_was(tmp_path: Path, place: str) -> None:
    world = edited_world(tmp_path / "usual")
    trace = tmp_path / "trace"
    await led(world, doomed(-1, signal.SIGTERM, trace, "run"))
    new = state_of(world)
    point = first_at(trace.read_text().splitlines(), place)
    world = edited_world(tmp_path / "ended")
    old = state_of(world)
    session_id = await led(world, doomed(point, signal.SIGTERM, tmp_path / "trace-2", "run"))
    assert session_id is not None
    require_whole(world, old, new)
    async with session_in(world) as session:
        state = await session.state(session_id)
        assert state["session_status"] == "active", state
        assert state["current_phase"] in (3, 4)
        await session.complete_all(session_id, range(state["current_phase"], 6))
    assert require_whole(world, old, new) == "new"
    require_nothing_left(world)


async def led(world: World, command: list[str]) -> str | None:
    """Lead an upgrade until its mcpkeep ends; the session."""
    session_id: str | None = None
    try:
        async with session_in(world, command) as session:
            session_id = await session.start()
            await session.complete_all(session_id)
    except Exception:  # the SDK's, of many types, when its server is gone
        pass
    return session_id


# The lock


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path: Path, usual: Struck) -> None:
    world = edited_world(tmp_path / "world")
    killed = strike(world, first_at(usual.trace, "staging.fill_staging"), *upgrade_words(world))
    assert killed.code == -signal.SIGKILL
    owner = HeldLock(layout_of(world)).owner()
    assert owner is not None and owner["alive"] is False
    again = strike(world, -1, *upgrade_words(world))
    assert again.code == 0, again.err
    assert "was interrupted, and taken back whole" in again.err
    require_nothing_left(world)


def test_a_lock_of_a_living_process_is_respected_and_its_owner_named(tmp_path: Path) -> None:
    world = edited_world(tmp_path)
    old = state_of(world)
    lock = HeldLock(layout_of(world))
    lock.take("somebody-elses")
    refused = strike(world, -1, *upgrade_words(world))
    back = strike(world, -1, "rollback", "--yes", "--json")
    assert (refused.code, back.code) == (1, 4), (refused.out, back.out)
    for said in (refused, back):
        assert "somebody-elses" in said.out + said.err
    assert lock.held_for == "somebody-elses"
    lock.let_go()
    assert require_whole(world, old, old) == "old"


async def test_of_two_upgrades_at_once_the_second_is_refused_and_names_the_first(tmp_path: Path) -> None:
    world = edited_world(tmp_path)
    async with session_in(world) as session:
        session_id = await session.start()
        await session.complete_all(session_id, range(1))
        refused: list[Struck] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.complete, session_id, 1)
            with anyio.fail_after(LIMIT):
                while HeldLock(layout_of(world)).owner() is None:
                    await anyio.lowlevel.checkpoint()
            refused.append(await anyio.to_thread.run_sync(lambda: strike(world, -1, *upgrade_words(world))))
        assert refused[0].code == 1
        assert session_id in refused[0].out + refused[0].err
        await session.complete_all(session_id, range(2, 6))
    require_nothing_left(world)


# The user at work meanwhile


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("staging.copy<copying.run", 1),
        ("records.stage", 1),
        ("steps._move<steps.perform<changes._swap<changes.swap_rest", 0),
    ],
    ids=["while staging is filled", "before the commit", "in the moment of the swap"],
)
def test_an_edit_in_the_middle_of_an_upgrade_survives_it(
    tmp_path: Path, usual: Struck, place: str, code: int
) -> None:
    world = edited_world(tmp_path / "world")
    path = world.base / EDITED
    theirs = path.read_text().replace("Our history is what", "Our whole history is what")
    done = strike(
        world,
        first_at(usual.trace, place),
        *upgrade_words(world),
        number=signal.SIGSTOP,
        meanwhile=lambda: path.write_text(theirs),
    )
    assert done.code == code, done.out + done.err
    assert path.read_text() == theirs
    assert code == 0 or EDITED in done.out
    require_nothing_left(world)
    again = strike(world, -1, *upgrade_words(world))
    assert again.code == 0, again.err
    assert "Our whole history" in path.read_text()
