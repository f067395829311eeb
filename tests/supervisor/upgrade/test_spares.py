"""Spare copies of what a change took out: a rollback brings them in, and never a wrong one."""

import errno
import itertools
import os
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.faults import Faults
from tests.small_installation import OLD, SESSION, World, build, sha, upgrade, upgraded, whole

PATH = "standards/universal/a.md"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return upgraded(tmp_path)


def plan(world: World, session_id: str = "back") -> ChangeOrder:
    world.begin(session_id, kind="rollback")
    return plan_rollback(world.changes, session_id, None, calls=world.calls).order


def spare(world: World, path: str = PATH) -> Path:
    return world.layout.change(SESSION) / "spare" / path


def test_the_way_back_brings_the_spare_copies_in_and_makes_none(world: World) -> None:
    numbers = {path: os.stat(spare(world, path)).st_ino for path in OLD if spare(world, path).exists()}
    world.commit(plan(world))
    assert {path: os.stat(world.base / path).st_ino for path in numbers} == numbers
    assert PATH in numbers
    assert whole(world) == "old"


def test_what_is_saved_after_a_rollback_is_not_in_what_the_changes_keep(world: World) -> None:
    world.commit(plan(world))
    with (world.base / PATH).open("ab") as file:
        file.write(b"mine\n")
    kept = [world.layout.change(SESSION) / "old" / PATH, world.layout.change("back") / "new" / PATH]
    assert [path.read_bytes() for path in kept] == [OLD[PATH]] * 2


def test_a_spare_copy_that_is_not_as_its_original_is_passed_by(world: World) -> None:
    spare(world).write_bytes(b"other\n")
    order = plan(world)
    assert PATH not in order.spares
    world.commit(order)
    assert whole(world) == "old"


def test_a_spare_copy_that_a_power_loss_left_with_a_second_name_is_passed_by(world: World) -> None:
    os.link(spare(world), world.base / "standards/development/named-twice.md")
    assert PATH not in plan(world).spares


def test_a_rollback_that_is_taken_back_leaves_a_spare_copy_for_the_next_without_the_edit(
    world: World,
) -> None:
    world.commit(plan(world))
    with (world.base / PATH).open("ab") as file:
        file.write(b"mine\n")
    assert world.changes.undo("back") == (PATH,)
    world.changes.discard("back")
    assert (world.base / PATH).read_bytes() == OLD[PATH] + b"mine\n"
    assert spare(world).read_bytes() == OLD[PATH]


def test_a_file_whose_writer_goes_on_after_the_upgrade_is_copied_as_it_is(world: World) -> None:
    with (world.layout.change(SESSION) / "old" / PATH).open("ab") as file:
        file.write(b"late\n")
    world.commit(plan(world))
    assert (world.base / PATH).read_bytes() == OLD[PATH] + b"late\n"


def test_a_file_that_its_writer_changes_once_the_way_back_is_planned_is_copied_as_it_is(world: World) -> None:
    order = plan(world)
    with (world.layout.change(SESSION) / "old" / PATH).open("ab") as file:
        file.write(b"late\n")
    world.commit(order)
    data = (world.base / PATH).read_bytes()
    assert data == OLD[PATH] + b"late\n"
    assert world.changes.made.records()[-1].files[PATH].new == sha(data)


def test_where_any_call_fails_nothing_unfinished_stays_and_the_way_back_leads_back(tmp_path: Path) -> None:
    for n in itertools.count():
        folder = tmp_path / str(n)
        folder.mkdir()
        before = build(folder)
        upgrade(before)
        before.lock.let_go()
        calls = Faults(n, errno.ENOSPC)
        try:
            before.again(calls).changes.keep_spares(SESSION)
        except UpgradeFailed:
            assert calls.failed == 1
        left = {path.name for path in before.layout.change(SESSION).iterdir()}
        assert "spare.tmp" not in left
        assert ("spare" in left) is (calls.failed == 0)
        world = before.again()
        world.commit(plan(world))
        assert whole(world) == "old"
        if calls.failed == 0:
            assert n > 5
            break


def test_spare_copies_are_kept_once(world: World) -> None:
    number = os.stat(spare(world)).st_ino
    world.changes.keep_spares(SESSION)
    assert os.stat(spare(world)).st_ino == number


def test_a_change_that_does_not_stand_has_none(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.changes.keep_spares(SESSION)
    assert not world.layout.changes.exists()
