"""Folders restored from a backup onto a damaged tree: killed at any call, the next start ends it."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.journal import Begun, Ended
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.rollback import plan_restored
from tests.small_installation import SESSION, World, build, killed_at, live, upgrade, version

BACK = "rollback-1"
OWN = "standards/development/mine.md"


def damaged(folder: Path) -> tuple[World, str]:
    """Upgraded, with a backup from before, and then the folders lost."""
    world = build(folder)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    backups = BackupFiles(world.layout)
    made = backups.create(SESSION, release="old", requirements="", now=now, check=lambda: None)
    upgrade(world)
    world.append(SESSION, Ended("completed", world.now()))
    world.lock.let_go()
    shutil.rmtree(world.layout.stagings)
    shutil.rmtree(world.base / "mcp_server")
    (world.base / "standards/universal/a.md").write_bytes(b"")
    return world.again(), made.backup_id


def restore(world: World, backup_id: str) -> None:
    """What the actor does, without its server."""
    world.lock.take(BACK)
    options = {"to": backup_id, "restore": True}
    world.journals.begin(Begun(BACK, "rollback", False, "test", world.now(), options))
    backups = BackupFiles(world.layout, calls=world.calls)
    done = backups.restore(backup_id, BACK, check=lambda: None)
    world.commit(plan_restored(world.changes, BACK, "old", done.carried_over))
    world.changes.made.forget()
    world.append(BACK, Ended("completed", world.now()))
    world.lock.let_go()


def assert_restored(world: World) -> None:
    found = {path: data for path, data in live(world).items() if not path.startswith((".backups", ".cache"))}
    wanted = {path: data for path, data in version("old").items() if not path.startswith(".cache")}
    for folder in ("workflows", "workflows/made"):
        if found.get(folder) == "empty folder":
            del found[folder]
    assert found == wanted
    assert world.layout.current_release() == "old"
    assert world.changes.made.records() == ()
    assert world.journals.open() == ()


def test_it_ends_with_the_old_version_whole_and_no_change_to_go_back_over(tmp_path: Path) -> None:
    world, backup_id = damaged(tmp_path)
    restore(world, backup_id)
    assert_restored(world)


@pytest.mark.parametrize("start", range(4))
def test_killed_at_any_call_the_next_start_brings_it_to_its_end(tmp_path: Path, start: int) -> None:
    n, died = start, True
    while died:
        folder = tmp_path / str(n)
        folder.mkdir()
        world, backup_id = damaged(folder)
        world, died = killed_at(n, world, lambda world, backup_id=backup_id: restore(world, backup_id))  # type: ignore[misc]
        done = world.recover()
        assert not done.failed, (n, done)
        if world.journals.read(BACK) is not None:
            assert_restored(world)
        shutil.rmtree(folder)
        n += 4
    assert n > 40
