"""Records on a real disk: whole after every failure and kill, with all of the user's in them."""

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mcpkeep.actors.upgrade_world import Records
from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Choice, Decision
from mcpkeep.protocol.upgrade.probation import Probation
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport
from mcpkeep.supervisor.durable import FileCalls, OsCalls
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.records import RecordFiles, ThreadedRecords
from tests.faults import Faults
from tests.powerloss import Recorder, crashes

NOW = datetime(2026, 1, 31, 10, 15, 5, tzinfo=UTC)
SOURCE = SourceFacts("/src", "e8b70c7abcdef", "1.2.0")
ENTRY = (
    "=== Upgrade to 1.2.0 - 2026-01-31 10:15:05 ===\nNew files: 1\nUpdated files: 2\nConflicts resolved: 0\n"
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "project" / ".praxis-os"
    base.mkdir(parents=True)
    return base


def records(base: Path, calls: FileCalls | None = None) -> RecordFiles:
    return RecordFiles(Layout(base.parent, base), now=lambda: NOW, calls=calls or OsCalls())


def test_version_and_log_are_staged_and_the_version_goes_live_with_the_commit(base: Path) -> None:
    staged = base / ".mcpkeep" / "staging" / "s" / ".praxis-os"
    staged.mkdir(parents=True)
    (base / "VERSION.txt").write_bytes(b"ours \xff\r\ncommit=925b10d\r\n")
    (base / "VERSION.txt").chmod(0o640)
    (base / "UPDATE_LOG.txt").write_text("before\n")
    assert records(base).stage("s", SOURCE) == ("VERSION.txt",)
    assert (staged / "VERSION.txt").read_bytes() == (
        b"ours \xff\r\ncommit=e8b70c7\r\nversion_installed=1.2.0\r\n"
        b"version_updated=2026-01-31T10:15:05Z\r\nsource=/src\r\n"
    )
    assert (staged / "VERSION.txt").stat().st_mode & 0o777 == 0o640
    assert (staged / "UPDATE_LOG.txt").read_text().startswith("before\n\n=== Upgrade to 1.2.0 - ")
    assert (base / "VERSION.txt").read_bytes() == b"ours \xff\r\ncommit=925b10d\r\n"
    assert (base / "UPDATE_LOG.txt").read_text() == "before\n"
    (base / "VERSION.txt").unlink()
    (base / "VERSION.txt").symlink_to("/etc/hostname")
    assert records(base).stage("s", SOURCE) == ()


def test_two_rollbacks_in_one_second_both_stand_in_every_record(base: Path) -> None:
    files = records(base)
    ways = [("rollback-1", "new", "old"), ("rollback-2", "old", "new")]
    paths = [
        files.record_rollback(
            RollbackReport(
                session_id=session_id,
                by="SIGUSR1",
                from_release=before,
                to_release=after,
                to_version=after,
                started_at=NOW,
                ended_at=NOW,
            )
        )
        for session_id, before, after in ways
    ]
    log = (base / "UPDATE_LOG.txt").read_text()
    assert [line.split(" - ")[0] for line in log.splitlines() if line.startswith("===")] == [
        "=== Rollback to old",
        "=== Rollback to new",
    ]
    assert [line["session_id"] for line in files.history()] == ["rollback-1", "rollback-2"]
    assert len({(base.parent / path).read_bytes() for path in paths}) == 2


def test_the_log_is_appended_to_once_and_the_summary_keeps_the_users_text(base: Path) -> None:
    (base / "UPDATE_LOG.txt").write_text("before\n")
    (base / "UPDATE_LOG.txt").chmod(0o664)
    (base / "INSTALLATION_SUMMARY.md").write_text("# Ours\n\nwords\n")
    for _ in range(2):
        records(base).write_records(log_entry=ENTRY, summary="## S\n")
    assert (base / "UPDATE_LOG.txt").read_text() == f"before\n\n{ENTRY}"
    assert (base / "UPDATE_LOG.txt").stat().st_mode & 0o777 == 0o664
    text = (base / "INSTALLATION_SUMMARY.md").read_text()
    assert text.startswith("# Ours\n\nwords\n\n<!-- mcpkeep: ")
    assert text.count("## S\n") == 1


def test_a_record_that_is_a_link_is_not_written_through(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (base / "UPDATE_LOG.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UpgradeFailed, match=r"^UPDATE_LOG.txt is a symbolic link"):
        records(base).write_records(log_entry=ENTRY, summary="## S\n")
    assert (tmp_path / "elsewhere").read_text() == "theirs"


def test_a_record_that_cannot_be_read_is_not_overwritten(base: Path) -> None:
    (base / "UPDATE_LOG.txt").mkdir()
    with pytest.raises(UpgradeFailed, match=r"^reading UPDATE_LOG.txt failed"):
        records(base).write_records(log_entry=ENTRY, summary="## S\n")


def test_reports_are_never_written_over_and_the_newest_summary_is_found(base: Path) -> None:
    files = records(base)
    assert files.latest() is None
    paths = [files.write_summary("2026-01-31", text) for text in ("one\n", "two\n", "three\n")]
    assert paths == [
        ".praxis-os/.cache/upgrade-summary-2026-01-31.md",
        ".praxis-os/.cache/upgrade-summary-2026-01-31-2.md",
        ".praxis-os/.cache/upgrade-summary-2026-01-31-3.md",
    ]
    for n, path in enumerate(paths):
        os.utime(base.parent / path, ns=(n, n))
    assert files.latest() == (paths[2], "three\n")
    assert files.write_summary("2026-01-31", "two\n") == paths[1]
    assert files.latest() == (paths[1], "two\n")
    path = files.write_validation("2026-01-31", {"verdict": "passed"})
    assert path == ".praxis-os/.cache/upgrade-validation-2026-01-31.json"
    assert msgspec.json.decode((base.parent / path).read_bytes()) == {
        "generated_at": "2026-01-31T10:15:05Z",
        "validation_results": {"verdict": "passed"},
    }


def test_the_history_survives_a_torn_last_line(base: Path) -> None:
    files = records(base)
    assert files.history() == ()
    files.log_line({"n": 1})
    with (base / ".mcpkeep" / "upgrades.jsonl").open("ab") as file:
        file.write(b'{"n": 2, "half')
    assert files.history() == ({"n": 1},)
    files.log_line({"n": 3})
    assert files.history() == ({"n": 1}, {"n": 3})


def test_decisions_are_kept_by_plan_and_the_oldest_forgotten(base: Path) -> None:
    files = records(base)
    made = {"a.md": Decision(Choice.MERGE, "resolve", "text\n"), "b/*.md": Decision(Choice.KEEP, "user")}
    assert files.decisions("plan-1") == {}
    files.save_decisions("plan-1", made)
    assert files.decisions("plan-1") == made
    os.utime(base / ".mcpkeep/decisions/plan-1.json", ns=(1, 1))
    for n in range(2, 22):
        files.save_decisions(f"plan-{n}", {})
    assert files.decisions("plan-1") == {}
    assert len(os.listdir(base / ".mcpkeep" / "decisions")) == 20
    (base / ".mcpkeep" / "decisions" / "plan-2.json").write_text("{")
    assert files.decisions("plan-2") == {}


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".x", "a\0", "x" * 101])
def test_a_name_from_outside_is_never_part_of_a_path_unchecked(base: Path, name: str) -> None:
    files = records(base)
    assert files.decisions(name) == {}
    for write in (
        lambda: files.save_decisions(name, {}),
        lambda: files.write_summary(name, ""),
        lambda: files.write_validation(name, {}),
    ):
        with pytest.raises(UpgradeFailed, match="cannot be part of a file's name"):
            write()


def test_the_probation_is_remembered_until_it_ends(base: Path) -> None:
    files = records(base)
    probation = Probation("s", "new", "adopted", NOW + timedelta(minutes=10))
    assert files.probation() is None
    files.save_probation(None)
    files.save_probation(probation)
    assert files.probation() == probation
    files.save_probation(None)
    assert files.probation() is None
    assert os.listdir(base / ".mcpkeep") == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_records_are_old_or_new_whatever_call_fails(base: Path, code: int) -> None:
    (base / "UPDATE_LOG.txt").write_text("before\n")
    (base / "INSTALLATION_SUMMARY.md").write_text("ours\n")
    records(base).log_line({"n": 1})
    failed = 0
    for n in range(1_000):
        calls = Faults(n, code)
        files = records(base, calls)
        try:
            files.write_records(log_entry=ENTRY, summary="## S\n")
            files.log_line({"n": 2})
        except UpgradeFailed as e:
            failed += 1
            assert e.details["errno"] == errno.errorcode[code]
        assert (base / "UPDATE_LOG.txt").read_text() in ("before\n", f"before\n\n{ENTRY}")
        assert (base / "INSTALLATION_SUMMARY.md").read_text().startswith("ours\n")
        assert {line["n"] for line in files.history()} >= {1}
        if not calls.failed:
            break
    assert failed >= 15
    assert [name for name in os.listdir(base) if name.endswith(".tmp")] == []


def test_after_a_power_loss_the_log_has_whole_entries_and_loses_none_that_was_answered(
    tmp_path: Path,
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorder = Recorder(root)
    recorder.mkdir(root / ".praxis-os")
    recorder.fsync_folder(root)
    files = records(root / ".praxis-os", recorder)
    entries = [ENTRY.replace("1.2.0", f"1.{n}.0") for n in range(3)]
    for entry in entries:
        files.write_records(log_entry=entry, summary="## S\n")
        recorder.mark(entry)
    for n, crash in enumerate(crashes(recorder)):
        lost = tmp_path / f"crash-{n}"
        lost.mkdir()
        crash.put(lost)
        log = lost / ".praxis-os" / "UPDATE_LOG.txt"
        found = log.read_text() if log.exists() else ""
        whole = ["\n".join(entries[:n]) for n in range(4)]
        assert found in whole[len(crash.marks) :]


@pytest.mark.anyio
async def test_the_upgrade_actors_records_are_these_in_a_thread(base: Path) -> None:
    threaded: Records = ThreadedRecords(records(base))
    (base / ".mcpkeep" / "staging" / "s" / ".praxis-os").mkdir(parents=True)
    made = {"a.md": Decision(Choice.TAKE, "resolve")}
    assert await threaded.stage("s", SOURCE) == ("VERSION.txt",)
    await threaded.write_records(log_entry=ENTRY, summary="## S\n")
    await threaded.log_line({"n": 1})
    await threaded.save_decisions("p", made)
    await threaded.save_probation(None)
    await threaded.write_validation("2026-01-31", {})
    path = await threaded.write_summary("2026-01-31", "text\n")
    assert await threaded.latest() == (path, "text\n")
    assert await threaded.history() == ({"n": 1},)
    assert await threaded.decisions("p") == made
    assert not await threaded.commit([path], "message")
