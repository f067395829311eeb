"""A change of the live tree: made, taken back, made again; what the user does in between."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.change import RollbackPlan
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.installed import find_damage, verify_installed
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.small_installation import NEW, OLD, SESSION, World, build, live, order, upgrade, version, whole


def test_a_change_brings_in_the_new_version_whole(tmp_path: Path) -> None:
    world = build(tmp_path)
    assert upgrade(world) == ()
    assert live(world) == {**version("new"), ".upgrade-lock": live(world)[".upgrade-lock"]}
    [record] = world.changes.records()
    assert (record.from_release, record.to_release, record.swapped_index) == ("old", "new", True)


def test_undo_brings_back_the_old_version_and_staging_so_that_it_can_be_done_again(tmp_path: Path) -> None:
    world = build(tmp_path)
    for _ in range(3):
        world.commit(order(world)) if world.journals.read(SESSION) else upgrade(world)
        assert world.changes.undo(SESSION) == ()
        assert world.changes.undo(SESSION) == ()
        world.lock.let_go()
        assert whole(world) == "old"
        assert world.changes.records() == ()
        for path, data in NEW.items():
            assert (world.layout.staged(SESSION) / path).read_bytes() == data


EDIT = b"one, edited by me\ntwo\nthree\nfour\nfive\nsix\nseven\n"
A = "standards/universal/a.md"
LATE = f".mcpkeep/conflicts/{SESSION}/late"


def test_what_changed_since_the_plan_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    world = build(tmp_path)
    (world.base / A).write_bytes(EDIT)
    before = live(world)
    with pytest.raises(UpgradeFailed, match=f"changed since the plan was made: {A}") as failure:
        world.changes.prepare(order(world))
    assert failure.value.details == {"stale": [A]}
    assert live(world) == before


@pytest.mark.parametrize("in_place", [True, False])
def test_an_edit_between_plan_and_swap_stays_and_the_new_version_is_put_aside(
    tmp_path: Path, in_place: bool
) -> None:
    world = build(tmp_path)
    world.begin()
    world.changes.prepare(order(world))
    world.changes.swap_first(order(world))
    if not in_place:
        (world.base / A).unlink()
    (world.base / A).write_bytes(EDIT)
    assert world.changes.swap_rest(order(world)) == (A,)
    assert (world.base / A).read_bytes() == EDIT
    assert (world.base / LATE / A).read_bytes() == NEW[A]
    [record] = world.changes.records()
    assert A not in record.files
    assert world.changes.undo(SESSION) == ()
    assert live(world) == {**version("old"), A: EDIT}


def test_an_edit_after_the_commit_outlasts_its_undoing(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    (world.base / A).write_bytes(EDIT)
    (world.base / "standards/universal/gone").mkdir()
    (world.base / "standards/universal/gone/b.md").write_bytes(b"mine")
    assert world.changes.undo(SESSION) == (A, "standards/universal/gone/b.md")
    assert live(world) == {**version("old"), A: EDIT, "standards/universal/gone/b.md": b"mine"}
    assert (world.base / LATE / A).read_bytes() == OLD[A]
    assert (world.base / LATE / "standards/universal/gone/b.md").read_bytes() == b"goes with its folder\n"


def back(world: World, session_id: str = "s-2", to: str | None = None) -> RollbackPlan:
    world.begin(session_id, kind="rollback")
    plan = plan_rollback(world.changes, session_id, to)
    world.commit(plan.order)
    return plan


def test_a_rollback_merges_what_was_edited_since_and_can_itself_be_rolled_back(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    (world.base / A).write_bytes(NEW[A].replace(b"seven", b"seven, mine"))
    plan = back(world)
    assert (plan.merged, plan.kept, plan.kept_aside) == ((A,), (), {})
    assert (world.base / A).read_bytes() == OLD[A].replace(b"seven", b"seven, mine")
    assert world.layout.current_release() == "old"
    back(world, "s-3")
    assert (world.base / A).read_bytes() == NEW[A].replace(b"seven", b"seven, mine")
    assert (world.base / "mcp_server/main.py").read_bytes() == NEW["mcp_server/main.py"]
    assert world.layout.current_release() == "new"
    back(world, "s-4", "old")
    assert world.layout.current_release() == "old"
    world.changes.prune(("nothing",))
    assert world.changes.records() == ()


def test_where_a_rollback_overlaps_an_edit_the_users_stays_and_the_restored_one_is_put_aside(
    tmp_path: Path,
) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    (world.base / A).write_bytes(NEW[A].replace(b"three, changed", b"three, mine"))
    (world.base / "workflows/made/c.md").write_bytes(b"mine")
    (world.base / "scripts/build.py").unlink()
    plan = back(world)
    assert plan.kept == ("scripts/build.py", A, "workflows/made/c.md")
    assert plan.kept_aside == {A: f".mcpkeep/conflicts/s-2/{A}"}
    assert (world.base / plan.kept_aside[A]).read_bytes() == OLD[A]
    assert b"three, mine" in (world.base / A).read_bytes()
    assert not (world.base / "scripts/build.py").exists()


def test_a_release_that_is_gone_must_be_rebuilt(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    shutil.rmtree(world.layout.venvs / "old")
    with pytest.raises(UpgradeFailed, match="the venv 'old' of release 'old' is gone") as failure:
        plan_rollback(world.changes, "s-2", None)
    assert failure.value.details["rebuild"] is True


def test_an_installation_by_the_older_name_is_renamed_and_both_names_lead_to_it(tmp_path: Path) -> None:
    world = build(tmp_path, base=".agent-os")
    world.begin()
    world.commit(order(world))
    assert os.readlink(tmp_path / ".agent-os") == ".praxis-os"
    assert whole(world) == "new"
    world.changes.undo(SESSION)
    assert sorted(os.listdir(tmp_path)) == [".agent-os"]
    assert whole(world) == "old"


def test_damage_is_told_from_deletion_and_edit(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    assert find_damage(world.changes) == ()
    assert verify_installed(world.changes, "new").verified
    (world.base / "scripts/build.py").unlink()
    (world.base / A).write_bytes(b"")
    shutil.rmtree(world.base / "workflows/made")
    assert find_damage(world.changes) == (A, "workflows/made/c.md")
    found = verify_installed(world.changes, "new")
    assert (found.mismatches, found.missing) == ((A,), ("scripts/build.py", "workflows/made/c.md"))


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/../b", ""])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    world = build(tmp_path)
    bad = msgspec.structs.replace(order(world), written=(path,))
    with pytest.raises(UpgradeFailed, match="is not a path inside"):
        world.changes.prepare(bad)


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    world = build(tmp_path)
    shutil.move(world.base / "scripts", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", world.base / "scripts")
    with pytest.raises(UpgradeFailed, match=r"'scripts', above '.*', is a symbolic link"):
        world.changes.prepare(order(world))
