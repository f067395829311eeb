"""Every file call of a whole upgrade fails in turn: the answer names it, one version stands, nothing is left.

The test takes a spread of the calls. Each place in the code, and each step of the commit, fails with

    MCPKEEP_KILLS=all pytest tests/supervisor/upgrade/test_upgrade_faults.py
"""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.request import Refused, RunUpgrade, UpgradeAnswer, UpgradeDone, UpgradeFault
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.upgrade.alone import answer_alone
from tests.doomed import COUNTED, place_of
from tests.killing import (
    State,
    count_of_kills,
    edited_world,
    layout_of,
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
from tests.upgrades import mcpkeep_environment

pytestmark = pytest.mark.anyio

CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)
MAKING = ("create", "open_append", "write", "mkdir", "symlink", "link")
"""What a full disk refuses."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def failing(at: int, code: int) -> Generator[list[str]]:
    """That file call fails, and of a full disk those after it that need room; what was called."""
    calls: list[str] = []
    lock = threading.Lock()
    real: dict[str, Callable[..., Any]] = {name: getattr(OsCalls, name) for name in COUNTED}

    def broken(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with lock:
                number = len(calls)
                calls.append(f"{name} {place_of()}")
            full = code == errno.ENOSPC and at >= 0 and number > at and name in MAKING
            if number == at or full:
                raise OSError(code, os.strerror(code))
            return real[name](*arguments)

        return call

    try:
        for name in COUNTED:
            setattr(OsCalls, name, broken(name))
        yield calls
    finally:
        for name, call in real.items():
            setattr(OsCalls, name, call)


async def upgrade(world: World) -> tuple[UpgradeAnswer, list[str]]:
    """The answer, and what was told on the way."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mcpkeep_environment(world).items():
            patch.setenv(name, value)
        asked = RunUpgrade(UpgradeOptions(str(world.source)), by="test")
        answer = await answer_alone(layout_of(world), asked, on_step=lambda _, step: told.append(step))
    return answer, told


async def test_a_file_call_that_fails_is_named_with_a_remedy_and_the_next_upgrade_succeeds(
    tmp_path: Path,
) -> None:
    world = edited_world(tmp_path / "usual")
    old = state_of(world)
    with failing(-1, 0) as calls:
        answer, _ = await upgrade(world)
    assert isinstance(answer, UpgradeDone), answer
    new = state_of(world)
    failures: list[str] = []
    points = spread(points_of(calls, each=("changes._swap",))[:-1], count_of_kills(6))
    for number, point in enumerate(points):
        code = CODES[number % len(CODES)]
        try:
            await fail_at(tmp_path / str(point), point, code, old, new)
        except AssertionError as error:
            failures.append(f"{errno.errorcode[code]} at {point}: {calls[point]}: {error}")
    assert failures == [], "\n".join(failures)


async def fail_at(folder: Path, point: int, code: int, old: State, new: State) -> None:
    world = edited_world(folder)
    with failing(point, code):
        answer, told = await upgrade(world)
    if not isinstance(answer, UpgradeDone):
        assert isinstance(answer, Refused | UpgradeFault), answer
        assert os.strerror(code).lower() in answer.reason.lower(), answer
        assert (answer.remedy != "", "bug" in answer.remedy) == (True, False), answer
    # With a full disk what was begun may wait for room; that is told, and the next start goes on with it.
    waits = isinstance(answer, UpgradeFault) and answer.state == "rollback_failed"
    assert not waits or code == errno.ENOSPC, answer
    if not waits:
        which = require_whole(world, old, new)
        assert which == ("new" if isinstance(answer, UpgradeDone) else "old"), (answer, told[-5:])
    if code != errno.ENOSPC:
        require_nothing_left(world)
    if not isinstance(answer, UpgradeDone):
        again = strike(world, -1, *upgrade_words(world))
        assert again.code == 0, again.out + again.err
    assert require_whole(world, old, new) == "new"
    require_nothing_left(world)
    await require_served(world, "new")
    shutil.rmtree(folder)
