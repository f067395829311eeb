"""A way back is planned in two parts: what the server needs to start, and the rest while it starts."""

import os
import shutil
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.change import RollbackPlan, comes_first
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.rollback import plan_first, plan_rest, plan_rollback
from tests.small_installation import NEW, OLD, World, upgraded, whole

A = "standards/universal/a.md"
BACK = "back"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = upgraded(tmp_path)
    world.begin(BACK, kind="rollback")
    return world


def begun(world: World) -> RollbackPlan:
    """As far as it is when the server is started."""
    first = plan_first(world.changes, BACK, None)
    world.changes.prepare_first(first.order)
    world.changes.swap_first(first.order)
    return first


def test_the_first_part_is_of_what_comes_first_and_both_are_the_whole(world: World) -> None:
    first = plan_first(world.changes, BACK, None)
    assert [*first.order.written, *first.order.removed, *first.order.expected] == ["scripts/build.py"] * 2
    rest = plan_rest(world.changes, first, None)
    assert rest == plan_rollback(world.changes, BACK, None)
    assert {comes_first(path) for path in rest.restored} == {True, False}


def test_what_is_edited_before_the_rest_is_planned_is_merged(world: World) -> None:
    first = begun(world)
    (world.base / A).write_bytes(NEW[A].replace(b"seven", b"seven, mine"))
    plan = plan_rest(world.changes, first, None)
    world.changes.prepare_rest(plan.order)
    assert world.changes.swap_rest(plan.order) == ()
    assert (plan.merged, plan.kept) == ((A,), ())
    assert (world.base / A).read_bytes() == OLD[A].replace(b"seven", b"seven, mine")
    assert (world.base / "scripts/build.py").read_bytes() == OLD["scripts/build.py"]


def test_a_rest_that_a_link_would_lead_elsewhere_is_refused_and_the_first_part_taken_back(
    world: World, tmp_path: Path
) -> None:
    first = begun(world)
    plan = plan_rest(world.changes, first, None)
    shutil.move(world.base / "standards", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", world.base / "standards")
    with pytest.raises(UpgradeFailed, match=r"'standards', above '.*', is a symbolic link"):
        world.changes.prepare_rest(plan.order)
    assert world.changes.undo(BACK) == ()
    os.unlink(world.base / "standards")
    shutil.move(tmp_path / "elsewhere", world.base / "standards")
    assert whole(world) == "new"


def test_a_rest_that_was_edited_since_its_plan_is_refused(world: World) -> None:
    first = begun(world)
    plan = plan_rest(world.changes, first, None)
    (world.base / A).write_bytes(b"mine\n")
    with pytest.raises(UpgradeFailed, match=f"changed since the plan was made: {A}"):
        world.changes.prepare_rest(plan.order)
