"""An upgrade, killed anywhere: one version stands at the next start, and nothing is left behind.

The tests strike a spread of points. Each place in the code, and each single step of a commit, are struck by

    MCPKEEP_KILLS=all pytest tests/supervisor/upgrade/test_upgrade_killed.py

and so many of them with a number instead of `all`.
"""

import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from mcpkeep.supervisor.upgrade.sample import packages_environment
from tests.killing import (
    State,
    count_of_kills,
    doomed,
    edited_world,
    points_of,
    require_nothing_left,
    require_served,
    require_whole,
    spread,
    state_of,
    strike,
    upgrade_words,
)
from tests.praxis import World
from tests.upgrades import PHASES, session_in

pytestmark = pytest.mark.anyio

EACH_STEP = ("changes._swap", "recovery.", "journal.")
SLICES = 2
KILLED = (0, -signal.SIGKILL)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Known:
    """What an undisturbed upgrade, and the way back, do and come to; found out once."""

    def __init__(self, folder: Path) -> None:
        world = edited_world(folder / "usual")
        self.old = state_of(world)
        done = strike(world, -1, *upgrade_words(world))
        assert done.code == 0, done.err
        self.trace = done.trace
        self.new: State = state_of(world)
        self.upgraded = folder / "upgraded"
        shutil.copytree(folder / "usual", self.upgraded, symlinks=True)
        back = strike(world, -1, "rollback", "--yes", "--json")
        assert back.code == 0, back.err
        self.trace_back = back.trace
        assert state_of(world) == self.old
        shutil.rmtree(folder / "usual")

    def upgraded_world(self, folder: Path) -> World:
        shutil.copytree(self.upgraded, folder, symlinks=True)
        wheels = folder / "wheels"
        return World(folder / "source", wheels, folder / "project", packages_environment(wheels))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(tmp_path_factory.mktemp("known"))


async def for_each_point(
    trace: Sequence[str], points: Sequence[int], try_it: Callable[[int, int], Awaitable[object]]
) -> None:
    """Try each point, with its number, to the last; then fail with all that failed."""
    failures: list[str] = []
    for number, point in enumerate(points):
        try:
            await try_it(number, point)
        except (AssertionError, TimeoutError) as error:
            failures.append(f"{point}: {trace[point] if point < len(trace) else 'the end'}: {error}")
    assert failures == [], "\n".join(failures)


async def require_settled(world: World, known: Known) -> str:
    """The next start finds, or makes, one whole version, that serves; which one."""
    started = strike(world, -1, "run")
    assert started.code == 0, started.err
    which = require_whole(world, known.old, known.new)
    require_nothing_left(world)
    await require_served(world, which)
    require_nothing_left(world)
    assert require_whole(world, known.old, known.new) == which
    return which


@pytest.mark.parametrize("part", range(SLICES))
async def test_killed_anywhere_in_an_upgrade_one_version_stands_whole_and_serves(
    tmp_path: Path, known: Known, part: int
) -> None:
    """Half of them are killed once more, in the recovery."""

    async def try_it(number: int, point: int) -> None:
        world = edited_world(tmp_path / str(point))
        died = strike(world, point, *upgrade_words(world))
        assert died.code in KILLED, died.err
        if number % 2:
            assert strike(world, 3 * (number % 40), "run").code in KILLED
        which = await require_settled(world, known)
        assert which == "new" or died.code != 0
        shutil.rmtree(world.workspace.parent)

    points = spread(points_of(known.trace, each=EACH_STEP), count_of_kills(8))
    await for_each_point(known.trace, points[part::SLICES], try_it)


async def test_killed_anywhere_in_a_rollback_it_is_finished_or_was_not_begun(
    tmp_path: Path, known: Known
) -> None:
    """Half of them are killed once more, in the recovery."""

    async def try_it(number: int, point: int) -> None:
        world = known.upgraded_world(tmp_path / str(point))
        died = strike(world, point, "rollback", "--yes", "--json")
        assert died.code in KILLED, died.err
        if number % 2:
            assert strike(world, 3 * (number % 40), "run").code in KILLED
        which = await require_settled(world, known)
        assert which == "old" or died.code != 0
        shutil.rmtree(world.workspace.parent)

    points = spread(points_of(known.trace_back, each=EACH_STEP), count_of_kills(3))
    await for_each_point(known.trace_back, points, try_it)


async def lead(world: World, command: Sequence[str] | None, session_id: str | None = None) -> str | None:
    """Lead an upgrade to its end, or until mcpkeep is killed; the session, once it was acknowledged."""
    try:
        async with session_in(world, command) as session:
            if session_id is None:
                session_id = await session.start()
            state = await session.state(session_id)
            if state["session_status"] != "completed":
                await session.complete_all(session_id, PHASES[state["current_phase"] :])
    except Exception:  # the SDK's, of many types, when its server is gone
        if command is None:
            raise
    return session_id


async def test_killed_anywhere_in_an_upgrade_that_an_agent_leads_it_goes_on_there(
    tmp_path: Path, known: Known
) -> None:
    world = edited_world(tmp_path / "first")
    trace = tmp_path / "trace"
    await lead(world, doomed(-1, signal.SIGKILL, trace, "run"))
    led = trace.read_text().splitlines()
    assert require_whole(world, known.old, known.new) == "new"

    async def try_it(number: int, point: int) -> None:
        world = edited_world(tmp_path / str(point))
        session_id = await lead(world, doomed(point, signal.SIGKILL, tmp_path / f"trace-{point}", "run"))
        if number % 2:
            assert strike(world, 3 * (number % 40), "run").code in KILLED
        started = strike(world, -1, "run")
        assert started.code == 0, started.err
        which = require_whole(world, known.old, known.new)
        require_nothing_left(world, session_id)
        await require_served(world, which)
        await lead(world, None, session_id)
        assert list((world.base / "state").rglob("*.tmp")) == []
        assert require_whole(world, known.old, known.new) == "new"
        require_nothing_left(world)
        shutil.rmtree(world.workspace.parent)

    points = spread(points_of(led, each=EACH_STEP), count_of_kills(3))
    await for_each_point(led, points, try_it)
