"""A disk that fails at any one call of a change: it is answered, and one whole version stands."""

import errno
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.faults import Faults
from tests.small_installation import SESSION, World, build, in_memory, order, upgrade, whole


def change(world: World) -> None:
    world.commit(order(world))


def rollback(world: World) -> None:
    world.commit(plan_rollback(world.changes, "s-2", None, calls=world.calls).order)


def upgraded(folder: Path) -> World:
    world = build(folder)
    upgrade(world)
    world.changes.keep_spares(SESSION)
    world.begin("s-2", kind="rollback")
    return world


def begun(folder: Path) -> World:
    world = build(folder)
    world.lock.take(SESSION)
    world.begin()
    return world


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize(
    ("code", "every", "exchanges"),
    [(errno.EIO, 1, True), (errno.ENOSPC, 7, True), (errno.EACCES, 7, True), (errno.EIO, 3, False)],
)
@pytest.mark.parametrize(("ready", "work"), [(begun, change), (upgraded, rollback)])
def test_each_failing_call_is_answered_and_the_tree_is_whole(
    memory: Path,
    ready: Callable[[Path], World],
    work: Callable[[World], None],
    code: int,
    every: int,
    exchanges: bool,
) -> None:
    session_id = SESSION if ready is begun else "s-2"
    n = 0
    for n in itertools.count(0, every):
        folder = memory / str(n)
        folder.mkdir()
        before = ready(folder)
        start = before.layout.current_release()
        calls = Faults(n, code, exchanges=exchanges)
        world = before.again(calls)
        try:
            work(world)
        except UpgradeFailed as e:
            assert calls.failed == 1
            assert e.remediation
            world = world.again()
            world.changes.undo(session_id)
            (world.base / ".upgrade-lock").unlink()
            assert whole(world) == start, n
        else:
            (world.base / ".upgrade-lock").unlink()
            assert whole(world) != start, n
            if calls.failed == 0:
                break
        shutil.rmtree(folder)
    assert n > 60


@pytest.mark.parametrize(("ready", "work"), [(begun, change), (upgraded, rollback)])
def test_a_disk_that_fails_from_some_call_on_leaves_what_the_next_start_puts_right(
    memory: Path, ready: Callable[[Path], World], work: Callable[[World], None]
) -> None:
    n = 0
    for n in itertools.count(0, 5):
        folder = memory / str(n)
        folder.mkdir()
        calls = Faults(n, errno.EIO, from_then_on=True)
        world = ready(folder).again(calls)
        try:
            work(world)
        except UpgradeFailed:
            world = world.again()
            assert not world.recover().failed
            assert not world.layout.lock.exists()
            assert whole(world) == "old", "the upgrade taken back, or the rollback finished"
        else:
            break
        shutil.rmtree(folder)
    assert n > 60
