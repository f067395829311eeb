"""A whole upgrade, killed anywhere: one version stands at the next start, and nothing is left behind.

The tests strike a spread of points. `MCPKEEP_KILLS=all pytest tests/supervisor/upgrade/test_upgrade_killed.py`
strikes each place in the code, and each single step of the commit; a number instead of `all` sets how many.
"""

import shutil
import signal
from pathlib import Path

import pytest

from tests.killing import (
    State,
    count_of_kills,
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

pytestmark = pytest.mark.anyio

EACH_STEP = ("changes._swap", "recovery.", "journal.")
SLICES = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Known:
    """What an undisturbed upgrade does, and comes to; found out once."""

    def __init__(self, folder: Path) -> None:
        world = edited_world(folder)
        self.old = state_of(world)
        done = strike(world, -1, *upgrade_words(world))
        assert done.code == 0, done.err
        self.trace = done.trace
        self.new: State = state_of(world)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(tmp_path_factory.mktemp("known"))


@pytest.mark.parametrize("part", range(SLICES))
async def test_killed_anywhere_in_an_upgrade_one_version_stands_whole_and_serves(
    tmp_path: Path, known: Known, part: int
) -> None:
    points = spread(points_of(known.trace, each=EACH_STEP), count_of_kills(12))
    failures: list[str] = []
    for number, point in list(enumerate(points))[part::SLICES]:
        what = f"{point}: {known.trace[point] if point < len(known.trace) else 'the end'}"
        world = edited_world(tmp_path / str(point))
        died = strike(world, point, *upgrade_words(world))
        try:
            # Half of them are killed once more, in the recovery.
            again = strike(world, 3 * (number % 40), "run") if number % 2 else None
            await require_settled(world, known)
        except (AssertionError, TimeoutError) as error:
            failures.append(f"killed at {what}\n{error}\n{died.err[-300:]}")
            continue
        assert died.code in (0, -signal.SIGKILL), died.err
        assert again is None or again.code in (0, -signal.SIGKILL), again.err
        shutil.rmtree(tmp_path / str(point))
    assert failures == []


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
