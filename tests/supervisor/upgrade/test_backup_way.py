"""Back to a backup that no change leads to: merged with what stands here, so that edits made since stay."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Ended
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from tests.powerloss import Recorder, crashes
from tests.praxis import make_variant, world_in
from tests.small_installation import (
    NEW,
    OLD,
    SESSION,
    World,
    build,
    in_memory,
    killed_at,
    live,
    upgrade,
    version,
)
from tests.supervisor.upgrade.test_rollback_command import (
    GIT_SAFETY,
    OWN,
    backup_of,
    copied,
    current,
    do,
)
from tests.supervisor.upgrade.test_rollback_command import upgrade as upgrade_praxis
from tests.upgrades import content_of

BACK = "rollback-1"
A = "standards/universal/a.md"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def forgotten(folder: Path) -> tuple[World, str]:
    """Upgraded, with a backup from before, and then the change forgotten; one file edited since."""
    world = build(folder)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = BackupFiles(world.layout).create("s", release="old", requirements="", now=now, check=lambda: None)
    upgrade(world)
    world.append(SESSION, Ended("completed", world.now()))
    world.lock.let_go()
    world.changes.settle(SESSION)
    shutil.rmtree(world.layout.stagings)
    for path, data in NEW.items():
        if not path.startswith(".cache"):
            (world.layout.baseline / path).parent.mkdir(parents=True, exist_ok=True)
            (world.layout.baseline / path).write_bytes(data)
    world.changes.made.forget()
    (world.base / A).write_bytes(NEW[A] + b"mine\n")
    return world.again(), made.backup_id


def go_back(world: World, backup_id: str) -> None:
    """What the actor does, without its server and records."""
    world.lock.take(BACK)
    options = {"to": backup_id, "restore": False}
    world.journals.begin(Begun(BACK, "rollback", False, "test", world.now(), options))
    world.commit(plan_rollback(world.changes, BACK, backup_id, calls=world.calls).order)


def content(world: World) -> dict[str, bytes | str]:
    return {
        path: data
        for path, data in live(world).items()
        if not path.startswith((".backups", ".cache", "workflows", ".upgrade-lock"))
    }


def wanted() -> dict[str, bytes | str]:
    old = {path: data for path, data in version("old").items() if not path.startswith(".cache")}
    return {**old, A: OLD[A] + b"mine\n"}


def test_what_was_installed_goes_what_the_backup_had_comes_and_edits_since_stay(tmp_path: Path) -> None:
    world, backup_id = forgotten(tmp_path)
    with pytest.raises(UpgradeFailed, match="nothing to go back to"):
        plan_rollback(world.changes, BACK, None)
    plan = plan_rollback(world.changes, BACK, backup_id)
    assert (plan.merged, plan.kept, plan.kept_aside) == ((A,), (), {})
    assert set(plan.restored) == {
        "mcp_server/main.py",
        "scripts/build.py",
        "standards/universal/gone/b.md",
        "workflows/made/c.md",
    }
    go_back(world, backup_id)
    assert content(world) == wanted()
    assert not (world.base / "workflows/made/c.md").exists()
    assert world.changes.made.records()[-1].to_release == "old"


@pytest.mark.parametrize("start", range(3))
def test_killed_at_any_call_the_next_start_finishes_it(memory: Path, start: int) -> None:
    n, died = start, True
    while died:
        folder = memory / str(n)
        folder.mkdir()
        world, backup_id = forgotten(folder)
        world, died = killed_at(n, world, lambda world, backup_id=backup_id: go_back(world, backup_id))  # type: ignore[misc]
        done = world.recover()
        assert not done.failed, (n, done)
        if world.journals.read(BACK) is not None:
            assert done.ended == {BACK: "completed"}, (n, done)
            assert content(world) == wanted()
            baseline = world.layout.baseline
            assert not baseline.exists() or list(baseline.iterdir()) == [], "of another version than stands"
        shutil.rmtree(folder)
        n += 3
    assert n > 30


def test_a_power_loss_once_it_is_done_leaves_no_baseline_of_another_version(memory: Path) -> None:
    folder = memory / "recorded"
    folder.mkdir()
    world, backup_id = forgotten(folder)
    recorder = Recorder(folder)
    recorder.adopt()
    go_back(world.again(recorder), backup_id)
    for n, crash in enumerate(crashes(recorder, len(recorder.log))):
        put = memory / str(n)
        put.mkdir()
        crash.put(put)
        again = World(Layout(put, put / ".praxis-os"))
        assert again.recover().ended == {BACK: "completed"}
        assert not again.layout.baseline.exists() or list(again.layout.baseline.iterdir()) == []
        again.lock.let_go()


def test_the_command_merges_it_and_the_next_rollback_and_upgrade_go_on_from_there(tmp_path: Path) -> None:
    before = world_in(tmp_path / "before")
    world = copied(before, tmp_path / "w")
    upgrade_praxis(world)
    new, upgraded = current(world), content_of(world)
    base, backup = world.base, backup_of(world).name
    shutil.rmtree(base / ".mcpkeep" / "changes")  # as those are in the end that lie far back
    text = (base / GIT_SAFETY).read_text()
    (base / GIT_SAFETY).write_text(text + "\nOne more rule of ours.\n")
    (base / OWN).write_text("ours\n")
    answer = do(world, "rollback", "--to", backup)
    assert (answer["to_release"], current(world)) == ("adopted", "adopted")
    assert answer["warnings"][0] == (
        f"backup {backup} was merged with what stood here: what you edited since stays"
    )
    old, now = content_of(before), content_of(world)
    assert now[GIT_SAFETY] == old[GIT_SAFETY] + b"\nOne more rule of ours.\n"
    assert now[OWN] == b"ours\n"
    assert {path for path in old.keys() | now.keys() if now.get(path) != old.get(path)} == {GIT_SAFETY, OWN}
    assert not (base / "VERSION.txt").exists(), "as before"
    assert do(world, "rollback")["to_release"] == new
    there = content_of(world)
    assert {path for path in upgraded if there.get(path) != upgraded[path]} == {GIT_SAFETY}
    assert do(world, "rollback", "--to", "adopted")["to_release"] == "adopted"
    upgrade_praxis(world)
    assert content_of(world)[GIT_SAFETY] == upgraded[GIT_SAFETY] + b"\nOne more rule of ours.\n"


def test_a_backup_of_the_current_release_brings_back_what_was_lost_and_keeps_the_rest(tmp_path: Path) -> None:
    world = world_in(tmp_path / "w")
    upgrade_praxis(world)
    base = world.base
    own, lost = base / "mcp_server" / "tools.py", base / "standards" / "universal" / "ours.md"
    edited = own.read_text()
    own.write_text(edited + "\n# ours\n")
    lost.write_text("ours\n")
    make_variant(world.source, "syntax_error")
    do(world, "upgrade", "--source", str(world.source), "--yes", code=1)
    backup, was = backup_of(world).name, current(world)
    own.write_text(edited)
    lost.unlink()
    (base / OWN).write_text("ours, since\n")
    answer = do(world, "rollback", "--to", backup)
    assert (answer["to_release"], current(world)) == (was, was)
    assert own.read_text() == edited + "\n# ours\n"
    assert lost.read_text() == "ours\n"
    assert (base / OWN).read_text() == "ours, since\n"
    refused = do(world, "rollback", "--to", was, code=2)
    assert "is the current one already" in refused["reason"]


def test_a_damaged_backup_is_not_merged(tmp_path: Path) -> None:
    world = world_in(tmp_path / "w")
    upgrade_praxis(world)
    shutil.rmtree(world.base / ".mcpkeep" / "changes")
    (backup_of(world) / GIT_SAFETY).write_text("rotten\n")
    stands = content_of(world)
    answer = do(world, "rollback", "--to", backup_of(world).name, code=4)
    assert answer["details"]["damaged"] == [GIT_SAFETY]
    assert content_of(world) == stands
