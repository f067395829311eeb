"""Killed at any call of commit, undo, rollback or recovery, one whole version stands at the next start."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.journal import Ended
from mcpkeep.supervisor.upgrade.pending import anything_pending
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.small_installation import (
    INDEX,
    NEW,
    OLD,
    SESSION,
    World,
    build,
    in_memory,
    killed_at,
    live,
    upgrade,
    whole,
)

Work = Callable[[World], object]


def whole_upgrade(world: World) -> None:
    upgrade(world)
    world.changes.keep_spares(SESSION)
    world.append(SESSION, Ended("completed", world.now()))
    shutil.rmtree(world.layout.stagings)
    world.lock.let_go()


def failed_upgrade(world: World) -> None:
    """Led to the commit, then taken back."""
    upgrade(world)
    world.changes.undo(SESSION)
    world.append(SESSION, Ended("aborted", world.now()))
    world.lock.let_go()


def whole_rollback(world: World) -> None:
    world.lock.take("s-2")
    world.begin("s-2", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-2", None, calls=world.calls).order)
    world.append("s-2", Ended("completed", world.now()))
    shutil.rmtree(world.layout.stagings)
    world.lock.let_go()


def assert_settled(world: World) -> str:
    """One version stands whole, and nothing is left to be done."""
    at = world.layout._replace(base=world.base)
    assert not at.lock.exists()
    assert not at.stagings.exists() or not any(at.stagings.iterdir())
    assert [path for path in world.base.rglob("*") if path.name.endswith(".tmp")] == []
    assert not anything_pending(str(world.layout.workspace))
    assert world.journals.open() == ()
    which = whole(world)
    records = world.changes.made.records()
    assert (records[-1].to_release if records else "old") == which
    for change in at.changes.iterdir() if at.changes.exists() else ():
        assert (change / "change.json").exists()
    return which


def each_kill(
    memory: Path, ready: Callable[[Path], World], work: Work, *, exchanges: bool = True, every: int = 1
) -> Iterator[tuple[int, World]]:
    for n in itertools.count(0, every):
        folder = memory / str(n)
        folder.mkdir()
        world, died = killed_at(n, ready(folder), work, exchanges=exchanges)
        yield n, world
        shutil.rmtree(folder)
        if not died:
            return


def upgraded(folder: Path) -> World:
    world = build(folder)
    whole_upgrade(world)
    return world.again()


def without_spares(folder: Path) -> World:
    world = upgraded(folder)
    shutil.rmtree(world.layout.change(SESSION) / "spare")
    return world


CASES = [
    (build, whole_upgrade),
    (build, failed_upgrade),
    (upgraded, whole_rollback),
    (without_spares, whole_rollback),
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize(("exchanges", "every"), [(True, 1), (False, 2)])
@pytest.mark.parametrize(("ready", "work"), CASES)
def test_killed_at_any_call_the_next_start_finds_or_makes_one_whole_version(
    memory: Path, ready: Callable[[Path], World], work: Work, exchanges: bool, every: int
) -> None:
    n = 0
    for n, world in each_kill(memory, ready, work, exchanges=exchanges, every=every):
        done = world.recover()
        assert not done.failed, (n, done)
        assert_settled(world)
        assert world.again().recover().said == ()
    assert n > 30


@pytest.mark.parametrize(("ready", "work"), CASES)
def test_killed_again_at_any_call_of_the_recovery_it_comes_to_the_same(
    memory: Path, ready: Callable[[Path], World], work: Work
) -> None:
    for n, world in each_kill(memory, ready, work):
        for m in itertools.count(n % 17, 17):
            world, died = killed_at(m, world, World.recover)
            if not died:
                break
        assert not world.recover().failed
        assert_settled(world)


def test_a_rollback_that_the_next_start_finishes_names_the_upgrade_that_it_took_back(tmp_path: Path) -> None:
    world = upgraded(tmp_path)
    world.lock.take("s-2")
    world.begin("s-2", kind="rollback")
    order = plan_rollback(world.changes, "s-2", None, calls=world.calls).order
    world.changes.prepare(order)
    world.changes.swap_first(order)
    done = world.again().recover()
    assert (done.ended, done.gone_back) == ({"s-2": "completed"}, (SESSION,))


def test_killed_at_any_call_of_a_rollback_its_index_ends_without_what_was_lent(tmp_path: Path) -> None:
    def rollback(world: World) -> None:
        world.begin("s-2", kind="rollback")
        world.commit(plan_rollback(world.changes, "s-2", None, calls=world.calls).order)
        world.changes.settle("s-2")
        world.append("s-2", Ended("completed", world.now()))

    for n in itertools.count():
        with in_memory(tmp_path / str(n)) as folder:
            world = build(folder)
            whole_upgrade(world)
            world.changes.settle(SESSION)
            world, died = killed_at(n, world, rollback)
            world.recover()
            stands = OLD if whole(world) == "old" else NEW
            index = {path for path in live(world) if path.startswith(INDEX)}
            assert index == {path for path in stands if path.startswith(INDEX)}, n
            world.lock.let_go()
        if not died:
            break
