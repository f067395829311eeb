"""A change of the live tree: made, taken back, made again; what the user does in between."""

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.change import RollbackPlan
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.late_edit import LateEdit, Standing
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.upgrade.change_store import ThreadedChanges
from mcpkeep.supervisor.upgrade.installed import find_damage, look_after
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.small_installation import (
    NEW,
    OLD,
    SESSION,
    World,
    build,
    live,
    order,
    sha,
    upgrade,
    version,
    whole,
)


def test_a_change_brings_in_the_new_version_whole(tmp_path: Path) -> None:
    world = build(tmp_path)
    assert upgrade(world) == ()
    assert live(world) == {**version("new"), ".upgrade-lock": live(world)[".upgrade-lock"]}
    [record] = world.changes.made.records()
    assert (record.from_release, record.to_release, record.swapped_index) == ("old", "new", True)


def test_undo_brings_back_the_old_version_and_staging_so_that_it_can_be_done_again(tmp_path: Path) -> None:
    world = build(tmp_path)
    for _ in range(3):
        world.commit(order(world)) if world.journals.read(SESSION) else upgrade(world)
        assert world.changes.undo(SESSION) == ()
        assert world.changes.undo(SESSION) == ()
        world.lock.let_go()
        assert whole(world) == "old"
        assert world.changes.made.records() == ()
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


def test_an_edit_of_which_the_former_text_is_lost_stays_and_the_new_version_is_put_aside(
    tmp_path: Path,
) -> None:
    world = build(tmp_path)
    world.begin()
    world.changes.prepare(order(world))
    world.changes.swap_first(order(world))
    (world.base / A).write_bytes(EDIT)  # In place: the old file's other name is of these bytes too.
    assert world.changes.swap_rest(order(world)) == (LateEdit(A, "apart", f"{LATE}/{A}"),)
    assert (world.base / A).read_bytes() == EDIT
    assert (world.base / LATE / A).read_bytes() == NEW[A]
    [record] = world.changes.made.records()
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
    world.changes.made.prune(("nothing",))
    assert world.changes.made.records() == ()


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
    assert look_after(world.changes, SESSION) == Standing()
    (world.base / "scripts/build.py").unlink()
    (world.base / A).write_bytes(b"")
    shutil.rmtree(world.base / "workflows/made")
    assert find_damage(world.changes) == (A, "workflows/made/c.md")
    assert look_after(world.changes, SESSION) == Standing(("scripts/build.py", A, "workflows/made/c.md"))


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


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_watcher_of_the_live_folder_sees_only_temporary_names_and_moves_among_them(tmp_path: Path) -> None:
    """What the old server acts on is a file that is written, made, deleted, or comes from outside."""
    world = build(tmp_path)
    (world.base / "standards/universal/d.md").write_bytes(b"stays\n")
    c = ctypes.CDLL(None, use_errno=True)
    fd = c.inotify_init1(os.O_NONBLOCK)
    try:
        for folder in ("standards/universal", "standards/universal/gone"):
            assert c.inotify_add_watch(fd, os.fsencode(world.base / folder), 0x0FC6) >= 0
        world.begin()
        world.commit(order(world))
        data, seen = os.read(fd, 1 << 16), list[tuple[int, str]]()
    finally:
        os.close(fd)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        seen.append((mask, data[16 : 16 + length].rstrip(b"\0").decode()))
        data = data[16 + length :]
    moved_from, moved_to = 0x40, 0x80
    named = [(mask, name) for mask, name in seen if name.endswith(".md")]
    assert named == [(moved_from, "b.md"), (moved_to, "a.md")]
    assert (moved_to, ".mcpkeep-0.tmp") in seen, "b.md moved within its folder first"
    assert seen.index((moved_from, ".mcpkeep-3.tmp")) + 1 == seen.index((moved_to, "a.md"))


def test_links_binaries_modes_and_odd_names_go_and_come_back_as_they_are(tmp_path: Path) -> None:
    world = build(tmp_path)
    staged = world.layout.staged(SESSION) / "workflows/ü b"
    staged.mkdir(parents=True)
    (staged / "tool").write_bytes(b"\0\xff\r\n")
    (staged / "tool").chmod(0o755)
    os.utime(staged / "tool", ns=(1, 1_234_567_891))
    os.symlink("../nowhere", staged / "link")
    os.symlink("elsewhere", world.base / "workflows-link")
    (world.base / "workflows/ü b").mkdir(parents=True)
    os.symlink("was", world.base / "workflows/ü b/link")
    paths = ("workflows/ü b/tool", "workflows/ü b/link")
    expected = {paths[0]: None, paths[1]: sha(b"was")}
    more = msgspec.structs.replace(order(world), written=paths, removed=(), expected=expected)
    world.begin()
    world.commit(more)
    found = (world.base / paths[0]).stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o755, 1_234_567_891)
    assert os.readlink(world.base / paths[1]) == "../nowhere"
    os.unlink(world.base / paths[1])
    os.symlink("mine", world.base / paths[1])
    plan = back(world)
    assert plan.kept == (paths[1],), "a link has no lines to merge"
    assert os.readlink(world.base / paths[1]) == "mine"
    assert os.readlink(world.base / plan.kept_aside[paths[1]]) == "was"
    assert not (world.base / paths[0]).exists()


def test_a_file_system_without_hard_links_is_served_by_renames(tmp_path: Path) -> None:
    class NoLinks(OsCalls):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no hard links here")

    world = build(tmp_path)
    add_table(world)
    world = world.again(NoLinks())
    world.begin()
    world.commit(order(world))
    assert (world.base / A).read_bytes() == NEW[A]
    assert index_of(world) == {"t.lance", "t.lance/data", "t.lance/data/2"}
    world.changes.undo(SESSION)
    assert (world.base / A).read_bytes() == OLD[A]
    assert "t.lance/data/1" in index_of(world)


def test_what_the_running_server_compacts_meanwhile_is_passed_over(tmp_path: Path) -> None:
    class Compacting(OsCalls):
        def link(self, source: Path, target: Path) -> None:
            if source.name in ("1", "only"):
                source.unlink()
            super().link(source, target)

    world = build(tmp_path)
    add_table(world)
    (world.layout.vector_index / "t.lance/data/3").touch()
    world = world.again(Compacting())
    world.begin()
    world.commit(order(world))
    assert index_of(world) == {"t.lance", "t.lance/data", "t.lance/data/2", "t.lance/data/3"}


def add_table(world: World) -> None:
    """A table that only the live index has."""
    (world.layout.vector_index / "old.lance/data").mkdir(parents=True)
    (world.layout.vector_index / "old.lance/data/only").touch()


def index_of(world: World) -> set[str]:
    found = world.layout.vector_index.rglob("*")
    return {path.relative_to(world.layout.vector_index).as_posix() for path in found}


def freeze() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    return process


@pytest.mark.anyio
async def test_the_state_file_of_a_frozen_server_is_there_before_it_goes_on(tmp_path: Path) -> None:
    files = build(tmp_path)
    state = files.base / ".mcp_server_state.json"
    with freeze() as frozen:
        old = msgspec.json.encode({"pid": frozen.pid})
        state.write_bytes(old)
        files.begin()
        files.begin("s-2", kind="rollback")
        changes = ThreadedChanges(files.changes)
        await changes.prepare_first(order(files))
        await changes.swap_first(order(files))
        await changes.prepare_rest(order(files))
        await changes.swap_rest(order(files))
        state.write_bytes(b'{"pid": 2}')
        plan = await changes.plan_rest(await changes.plan_first("s-2", None), None)
        await changes.prepare_first(plan.order)
        await changes.swap_first(plan.order)
        assert state.read_bytes() == old
        assert await changes.undo("s-2") == ()
        assert state.read_bytes() == b'{"pid": 2}'
        frozen.kill()
    [record] = await changes.records()
    assert (await changes.damaged(), await changes.look_after(SESSION)) == ((), Standing())
    await changes.prune((record.to_release,))
    assert await changes.records() == (record,)


def test_the_former_bytes_come_from_the_backup_where_they_were_lost(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(msgspec.structs.replace(order(world), backup_id="b-1"))
    (world.layout.change(SESSION) / "old" / A).unlink()
    with pytest.raises(UpgradeFailed, match="is neither in"):
        plan_rollback(world.changes, "s-2", "b-1")
    copy = world.layout.backups / "b-1" / A
    copy.parent.mkdir(parents=True)
    copy.write_bytes(OLD[A])
    back(world, to="b-1")
    assert (world.base / A).read_bytes() == OLD[A]
