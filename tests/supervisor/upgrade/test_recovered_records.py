"""A rollback that the next start finishes leaves the records of one that finished in peace, each once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.journal import Ended
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport
from mcpkeep.supervisor.upgrade.records import RecordFiles
from mcpkeep.supervisor.upgrade.recovery import recover
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from mcpkeep.supervisor.upgrade.world import make_parts, recover_installation
from tests.small_installation import SESSION, World, build, in_memory, killed_at, upgrade

BACK = "s-2"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def upgraded(folder: Path) -> World:
    """Upgraded, and then edited: one file merges, one is the user's where there was none before."""
    world = build(folder)
    upgrade(world)
    world.append(SESSION, Ended("completed", world.now()))
    shutil.rmtree(world.layout.stagings)
    world.lock.let_go()
    with (world.base / "standards/universal/a.md").open("ab") as file:
        file.write(b"mine\n")
    (world.base / "workflows/made/c.md").write_bytes(b"mine now\n")
    return world.again()


def roll_back(world: World) -> None:
    """What the actor does up to its records, without its server."""
    world.lock.take(BACK)
    world.begin(BACK, kind="rollback")
    world.commit(plan_rollback(world.changes, BACK, None, calls=world.calls).order)


def recover_with_records(world: World) -> None:
    records = RecordFiles(world.layout, now=world.now, calls=world.calls)

    def record(report: RollbackReport, reason: str) -> None:
        records.record_rollback(report, reason=reason)

    recover(
        world.changes,
        world.journals,
        world.lock,
        record=record,
        now=world.now,
        calls=world.calls,
    )


def entries(world: World) -> list[str]:
    """Of UPDATE_LOG.txt, without their moments."""
    text = (world.base / "UPDATE_LOG.txt").read_text()
    return [entry.split(" - ")[0] + entry.split(" ===")[1] for entry in text.split("\n\n")]


def reports(world: World) -> list[str]:
    return [path.read_text() for path in (world.base / ".cache").glob("upgrade-summary-*-rollback*.md")]


def assert_recorded(world: World) -> None:
    assert entries(world) == [
        "=== Rollback to old\nRestored files: 3\nMerged files: 1\nKept files: 1\n",
    ]
    [report] = reports(world)
    assert report.startswith("# Rollback to old\n")
    assert "session `s-2`." in report
    assert "\n## Restored (3)\n\n- `mcp_server/main.py`\n- `scripts/build.py`\n" in report
    assert "edited since is in (1)\n\n- `standards/universal/a.md`\n" in report
    assert "or made since (1)\n\n- `workflows/made/c.md`\n" in report
    assert "- rolled back: " in (world.base / "INSTALLATION_SUMMARY.md").read_text()
    records = RecordFiles(world.layout, now=world.now)
    lines = [{**line} for line in records.history() if line["session_id"] == BACK]
    for line in lines:
        assert line.pop("at") and isinstance(line.pop("seconds"), float) and line.pop("reason")
    outcome = {"session_id": BACK, "by": "test", "outcome": "completed", "kind": "rollback"}
    assert lines == [outcome | {"from": "new", "to": "old"}]


@pytest.mark.parametrize("committed", [False, True])
def test_a_rollback_that_the_next_start_finishes_leaves_every_record(tmp_path: Path, committed: bool) -> None:
    world = upgraded(tmp_path)
    if committed:
        roll_back(world)
    else:
        world.lock.take(BACK)
        world.begin(BACK, kind="rollback")
        order = plan_rollback(world.changes, BACK, None, calls=world.calls).order
        world.changes.prepare(order)
        world.changes.swap_first(order)
    world = world.again()
    assert recover_installation(make_parts(world.layout)).ended == {BACK: "completed"}
    assert_recorded(world)


def test_killed_at_any_call_of_the_recovery_it_leaves_each_record_once(memory: Path) -> None:
    n, died = 0, True
    while died:
        folder = memory / str(n)
        folder.mkdir()
        world = upgraded(folder)
        roll_back(world)
        world, died = killed_at(n, world, recover_with_records)
        recover_with_records(world)
        assert_recorded(world)
        shutil.rmtree(folder)
        n += 1
    assert n > 20


def test_a_rollback_killed_while_it_wrote_its_records_has_each_once(memory: Path) -> None:
    world = upgraded(memory)
    roll_back(world)
    state = world.journals.read(BACK)
    assert state is not None
    recover_with_records(world)
    before = [entries(world), reports(world)]
    # As it was before the journal said that it ended.
    path = world.layout.journals / f"{BACK}.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    world = world.again()
    recover_with_records(world)
    assert [entries(world), reports(world)] == before
    assert_recorded(world)


def test_one_that_cannot_be_finished_has_a_report_that_says_why(tmp_path: Path) -> None:
    world = upgraded(tmp_path)
    world.lock.take(BACK)
    world.begin(BACK, kind="rollback")
    (world.layout.releases / "old" / "release.json").unlink()
    world = world.again()
    assert recover_installation(make_parts(world.layout)).ended == {BACK: "failed"}
    [report] = reports(world)
    assert report.startswith("# Rollback that failed\n")
    assert "\n## What went wrong\n\nrollback 's-2' was interrupted, and cannot be finished: release" in report
    assert not (world.base / "UPDATE_LOG.txt").exists()
