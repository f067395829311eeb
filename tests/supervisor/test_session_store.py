"""The sessions' folder: what is found at start, who may write, what a failure or a cut leaves."""

import errno
import itertools
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mcpkeep.actors.session import News, Overtaken, WriterNeeded
from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.refusal import StateConflict, StorageFailed
from mcpkeep.protocol.workflow.session import Session, SessionError
from mcpkeep.protocol.workflow.snapshot import (
    SnapshotDamaged,
    encode_snapshot,
    open_snapshot,
    read_session,
    store,
)
from mcpkeep.supervisor.durable import FileCalls, OsCalls
from mcpkeep.supervisor.session_store import SessionFiles
from mcpkeep.supervisor.writer_lock import WriterLock
from tests.faults import Faults
from tests.powerloss import Recorder, crashes

HERE = Path(__file__).parent
OLD_FILES = HERE.parent / "protocol" / "workflow" / "snapshots"
UPSTREAM = "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f"
T0 = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


class Quick(OsCalls):
    """Real calls without waiting for the disk."""

    def fsync(self, fd: int) -> None: ...

    def fsync_folder(self, path: Path) -> None: ...


QUICK: FileCalls = Quick()


def sid(n: int) -> str:
    return f"{n:08x}-6a1c-4c59-9d0b-1f2e3d4c5b6a"


def begin(n: int, target_file: str = "a.py") -> Session:
    return rules.start(
        sid(n), workflow_type="w", target_file=target_file, first_phase=1, last_phase=9, now=T0
    )


def step(session: Session) -> Session:
    return rules.pass_gate(session, session.current_phase, evidence={"n": 1}, now=T0 + timedelta(seconds=9))


def opened(
    folder: Path, *, calls: FileCalls = QUICK, older: tuple[Path, ...] = ()
) -> tuple[SessionFiles, News]:
    """The store of a process that has become the writer, and what it found."""
    files = SessionFiles(folder, who="test", older=older, calls=calls)
    first = files.refresh()
    second = files.acquire()
    changed = {**first.changed, **second.changed}
    return files, News(changed, (*first.removed, *second.removed), second.blocked, second.warnings)


def found(folder: Path, *, older: tuple[Path, ...] = ()) -> dict[str, Session]:
    """What another process reads."""
    news = SessionFiles(folder, who="reader", older=older, calls=QUICK).refresh()
    return {session_id: read_session(stored) for session_id, stored in news.changed.items()}


def delete(files: SessionFiles, n: int) -> bool:
    return files.delete(sid(n), reason="done with", now=T0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "workflows"


# What is found


def test_nothing_is_made_before_the_first_change(folder: Path) -> None:
    files = SessionFiles(folder, who="probe")
    assert files.refresh() == News()
    assert not folder.parent.exists()


def test_saved_sessions_are_found_by_the_next_process(folder: Path) -> None:
    files, _ = opened(folder)
    one, two = begin(1), begin(2)
    assert files.save(one) == store(one)
    files.save(two)
    files.save(step(one))
    files.close()
    assert found(folder) == {sid(1): step(one), sid(2): two}
    assert (folder / ".gitignore").read_text() == "*\n"
    assert {p.name for p in folder.iterdir()} == {
        ".gitignore",
        ".lock",
        f"{sid(1)}.json",
        f"{sid(1)}.json.previous",
        f"{sid(2)}.json",
    }


def test_a_damaged_session_falls_back_to_its_previous_generation_and_is_set_aside(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    files.save(step(begin(1)))
    files.close()
    (folder / f"{sid(1)}.json").write_bytes(b"torn")
    news = SessionFiles(folder, who="next").refresh()
    assert news.changed == {sid(1): store(begin(1))}
    (warning,) = news.warnings
    assert f"set aside as {sid(1)}.json.damaged" in warning
    assert (folder / f"{sid(1)}.json.damaged").read_bytes() == b"torn"
    assert found(folder) == {sid(1): begin(1)}
    (folder / f"{sid(1)}.json").write_bytes(b"torn again")
    SessionFiles(folder, who="next").refresh()
    assert (folder / f"{sid(1)}.json.damaged.1").read_bytes() == b"torn again"


def test_a_damaged_session_without_a_previous_generation_takes_no_other_down(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    files.save(begin(2))
    files.close()
    (folder / f"{sid(1)}.json").write_bytes(b"")
    news = SessionFiles(folder, who="next").refresh()
    assert news.changed == {sid(2): store(begin(2))}
    assert "no previous generation was readable" in news.warnings[0]
    assert not (folder / f"{sid(1)}.json").exists()


def test_while_another_process_writes_a_damaged_file_is_reported_and_left_where_it_is(folder: Path) -> None:
    writer, _ = opened(folder)
    writer.save(begin(1))
    writer.save(step(begin(1)))
    (folder / f"{sid(1)}.json").write_bytes(b"torn")
    news = SessionFiles(folder, who="reader").refresh()
    assert news.changed == {sid(1): store(begin(1))}
    assert "is damaged" in news.warnings[0]
    assert (folder / f"{sid(1)}.json").read_bytes() == b"torn"


def test_a_session_whose_file_vanished_comes_from_its_previous_generation(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    files.save(step(begin(1)))
    files.close()
    (folder / f"{sid(1)}.json").unlink()
    next_files, news = opened(folder)
    assert news.changed == {sid(1): store(begin(1))}
    assert news.warnings == (f"{sid(1)}.json is missing; the previous generation stands in",)
    next_files.save(step(begin(1)))
    assert found(folder) == {sid(1): step(begin(1))}


def test_a_session_of_a_newer_mcpkeep_is_blocked_and_never_touched(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    files.save(step(begin(1)))
    files.close()
    target = folder / f"{sid(1)}.json"
    newer = b'{"schema_version": 2, "new": true}'
    target.write_bytes(newer)
    _, news = opened(folder)
    assert (news.changed, list(news.blocked)) == ({}, [sid(1)])
    assert "run the newer mcpkeep" in news.blocked[sid(1)]
    assert target.read_bytes() == newer


def test_a_folder_in_place_of_a_session_takes_no_other_down(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(2))
    files.close()
    (folder / f"{sid(1)}.json").mkdir()
    _, news = opened(folder)
    assert news.changed == {sid(2): store(begin(2))}
    assert "cannot be read" in news.blocked[sid(1)]


def test_foreign_names_are_left_alone(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    files.close()
    for name in ("notes.txt", f"{sid(1)}.json.bak", f"{sid(2)}.JSON", "x.json", f"{sid(1)}.json~"):
        (folder / name).write_text("mine")
    _, news = opened(folder)
    assert list(news.changed) == [sid(1)]
    assert (folder / "notes.txt").read_text() == "mine"


def test_temp_files_of_a_killed_writer_are_tidied_up(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f".{sid(1)}.json.0badcafe.tmp").write_bytes(b"half")
    opened(folder)
    assert not list(folder.glob(".*.tmp"))


# Deleting


def test_a_deleted_session_leaves_a_tombstone_with_the_reason_and_never_comes_back(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    files.save(step(begin(1)))
    saved = {p.name: p.read_bytes() for p in folder.glob(f"{sid(1)}*")}
    assert delete(files, 1) is True
    assert msgspec.json.decode((folder / f"{sid(1)}.deleted").read_bytes()) == {
        "session_id": sid(1),
        "deleted_at": "2026-03-29T01:30:00Z",
        "reason": "done with",
    }
    assert [p.name for p in folder.glob(f"{sid(1)}*")] == [f"{sid(1)}.deleted"]
    files.close()
    for name, data in saved.items():
        (folder / name).write_bytes(data)
    assert found(folder) == {}
    opened(folder)
    assert [p.name for p in folder.glob(f"{sid(1)}*")] == [f"{sid(1)}.deleted"]


def test_a_deletion_that_failed_is_taken_back_by_the_next_change(folder: Path) -> None:
    """Otherwise its tombstone would take a later acknowledged change with it."""

    class Breaks(Quick):
        broken = False

        def fsync_folder(self, path: Path) -> None:
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        def unlink(self, path: Path) -> None:
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().unlink(path)

    calls = Breaks()
    files, _ = opened(folder, calls=calls)
    files.save(begin(1))
    calls.broken = True
    with pytest.raises(StorageFailed):
        delete(files, 1)
    assert (folder / f"{sid(1)}.deleted").exists()
    calls.broken = False
    files.save(step(begin(1)))
    files.close()
    assert found(folder) == {sid(1): step(begin(1))}


# Older locations


@pytest.fixture
def older(tmp_path: Path) -> Path:
    folder = tmp_path / ".cache" / "state"
    folder.mkdir(parents=True)
    (folder / f"{UPSTREAM}.json").write_bytes((OLD_FILES / "upstream-zero-indexed.json").read_bytes())
    return folder


def test_older_sessions_are_carried_over_once_and_left_in_place(folder: Path, older: Path) -> None:
    before = {p.name: p.read_bytes() for p in older.iterdir()}
    files, news = opened(folder, older=(older, older.parent / "nowhere"))
    assert list(news.changed) == [UPSTREAM]
    session = read_session(news.changed[UPSTREAM])
    files.save(rules.pass_gate(session, 2, evidence={}, now=T0))
    files.close()
    assert {p.name: p.read_bytes() for p in older.iterdir()} == before
    (older / f"{UPSTREAM}.json").write_text("changed by somebody since")
    again = found(folder, older=(older,))
    assert {i: s.current_phase for i, s in again.items()} == {UPSTREAM: 3}


def test_a_carried_session_that_was_deleted_here_never_comes_back(folder: Path, older: Path) -> None:
    files, _ = opened(folder, older=(older,))
    files.delete(UPSTREAM, reason=None, now=T0)
    files.close()
    assert found(folder, older=(older,)) == {}
    assert (older / f"{UPSTREAM}.json").exists()


def test_a_probe_sees_older_sessions_and_writes_nothing(folder: Path, older: Path) -> None:
    assert list(found(folder, older=(older,))) == [UPSTREAM]
    assert not folder.exists()


def test_a_reader_sees_what_the_writer_did_to_a_carried_session(folder: Path, older: Path) -> None:
    reader = SessionFiles(folder, who="reader", older=(older,))
    carried = read_session(reader.refresh().changed[UPSTREAM])
    writer, _ = opened(folder, older=(older,))
    after = rules.pass_gate(carried, 2, evidence={}, now=T0)
    writer.save(after)
    assert reader.refresh().changed == {UPSTREAM: store(after)}


def test_taking_over_keeps_what_the_last_writer_did_to_a_carried_session(folder: Path, older: Path) -> None:
    mine = SessionFiles(folder, who="mine", older=(older,), calls=QUICK)
    carried = read_session(mine.refresh().changed[UPSTREAM])
    writer, _ = opened(folder, older=(older,))
    after = rules.pass_gate(carried, 2, evidence={}, now=T0)
    writer.save(after)
    writer.close()
    assert mine.acquire().changed == {UPSTREAM: store(after)}
    assert found(folder) == {UPSTREAM: after}


def test_a_broken_older_session_is_a_warning(folder: Path, older: Path) -> None:
    (older / f"{sid(1)}.json").write_text("{")
    _, news = opened(folder, older=(older,))
    assert list(news.changed) == [UPSTREAM]
    assert "was not carried over" in news.warnings[0]


# Who writes


def test_a_save_without_the_lock_is_refused(folder: Path) -> None:
    with pytest.raises(WriterNeeded):
        SessionFiles(folder, who="hasty").save(begin(1))
    assert not folder.exists()


HOLD = """
import sys
from pathlib import Path
from mcpkeep.supervisor.session_store import SessionFiles
files = SessionFiles(Path(sys.argv[1]), who="another window")
files.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_change_names_the_process_that_writes_and_takes_over_when_that_is_killed(folder: Path) -> None:
    mine = SessionFiles(folder, who="mine")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateConflict) as refused:
            mine.acquire()
        assert f"pid {holder.pid} (another window, since " in str(refused.value)
        with pytest.raises(WriterNeeded):
            mine.save(begin(1))
        holder.kill()
    mine.acquire()
    mine.save(begin(1))


def test_taking_over_reads_what_the_last_writer_changed(folder: Path) -> None:
    first, _ = opened(folder)
    for n in (1, 2, 3):
        first.save(begin(n))
    second = SessionFiles(folder, who="second", calls=QUICK)
    assert set(second.refresh().changed) == {sid(1), sid(2), sid(3)}
    first.save(step(begin(1)))
    delete(first, 2)
    first.save(begin(4))
    first.close()
    news = second.acquire()
    assert news.changed == {sid(1): store(step(begin(1))), sid(4): store(begin(4))}
    assert news.removed == (sid(2),)
    second.save(step(step(begin(1))))


def test_a_reader_sees_every_change_of_the_writer(folder: Path) -> None:
    writer, _ = opened(folder)
    reader = SessionFiles(folder, who="reader")
    session = begin(1)
    for _ in range(20):
        stored = writer.save(session)
        assert reader.refresh().changed == {sid(1): stored}
        assert reader.refresh().changed == {}
        session = rules.record_error(
            session, error=SessionError(1, T0, "ValidationError", "same size"), now=T0
        )
    delete(writer, 1)
    assert reader.refresh().removed == (sid(1),)


def test_a_reader_sees_a_change_within_the_same_tick_of_the_folders_time(folder: Path) -> None:
    writer, _ = opened(folder)
    writer.save(begin(1))
    reader = SessionFiles(folder, who="reader")
    reader.refresh()
    tick = folder.stat().st_mtime_ns
    stored = writer.save(step(begin(1)))
    os.utime(folder, ns=(tick, tick))
    assert reader.refresh().changed == {sid(1): stored}


def test_a_lock_file_that_was_removed_is_taken_again_before_the_next_change(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    (folder / ".lock").unlink()
    with pytest.raises(WriterNeeded):
        files.save(begin(2))
    assert files.acquire().changed == {}
    files.save(begin(2))


def test_two_locks_of_one_file_are_never_both_held(tmp_path: Path) -> None:
    one, two = WriterLock(tmp_path / "l", who="one"), WriterLock(tmp_path / "l", who="two")
    assert (one.acquire(), two.acquire(), one.acquire()) == (True, False, True)
    owner = two.owner()
    assert owner is not None
    assert (owner.pid, owner.who) == (os.getpid(), "one")
    one.release()
    assert two.owner() is None
    assert (two.acquire(), one.acquire(), one.held, two.held) == (True, False, False, True)


# Edited, moved, full


def test_a_file_edited_by_hand_is_seen_before_it_would_be_overwritten(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    target = folder / f"{sid(1)}.json"
    edited = encode_snapshot(begin(1, target_file="b.py"))
    target.write_bytes(edited)
    with pytest.raises(Overtaken, match="was changed on disk, and was read again") as overtaken:
        files.save(step(begin(1)))
    assert overtaken.value.stands == store(begin(1, target_file="b.py"))
    assert target.read_bytes() == edited
    files.save(step(begin(1, target_file="b.py")))
    assert found(folder) == {sid(1): step(begin(1, target_file="b.py"))}


def test_an_edit_that_cannot_be_used_is_kept_aside_and_the_session_goes_on(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    (folder / f"{sid(1)}.json").write_bytes(b"oops")
    with pytest.raises(Overtaken, match="cannot be used") as overtaken:
        files.save(step(begin(1)))
    assert overtaken.value.stands is None
    assert (folder / f"{sid(1)}.json.damaged").read_bytes() == b"oops"
    files.save(step(begin(1)))
    assert found(folder) == {sid(1): step(begin(1))}


def test_an_edit_by_a_newer_mcpkeep_is_not_touched(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    newer = b'{"schema_version": 2}'
    (folder / f"{sid(1)}.json").write_bytes(newer)
    for _ in range(2):
        with pytest.raises(Overtaken, match="run the newer mcpkeep"):
            files.save(step(begin(1)))
    assert (folder / f"{sid(1)}.json").read_bytes() == newer


def test_an_edited_file_is_not_deleted_unseen(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    edited = encode_snapshot(begin(1, target_file="b.py"))
    (folder / f"{sid(1)}.json").write_bytes(edited)
    with pytest.raises(Overtaken):
        delete(files, 1)
    assert (folder / f"{sid(1)}.json").read_bytes() == edited
    assert delete(files, 1) is True


def test_a_session_outlives_the_removal_of_its_file_and_of_the_whole_folder(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    (folder / f"{sid(1)}.json").unlink()
    files.save(step(begin(1)))
    assert found(folder) == {sid(1): step(begin(1))}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(WriterNeeded):
        files.save(begin(1))
    assert files.acquire() == News()
    files.save(begin(1))
    assert found(folder) == {sid(1): begin(1)}


GONE = "the workspace was moved or removed since mcpkeep started"


def test_a_folder_that_was_moved_with_what_is_above_it_gets_no_ghost_and_goes_on_where_it_is_put_back(
    tmp_path: Path,
) -> None:
    workspace, away = tmp_path / "w", tmp_path / "w-new"
    files, _ = opened(workspace / ".praxis-os" / "state" / "workflows")
    files.save(begin(1))
    workspace.rename(away)
    (workspace / ".praxis-os").mkdir(parents=True)  # as a server does that goes on at the old path
    with pytest.raises(WriterNeeded):
        files.save(begin(2))
    for _ in range(2):
        with pytest.raises(StorageFailed, match=f"cannot be saved: {GONE}$") as failed:
            files.acquire()
        assert failed.value.remediation.startswith("restart mcpkeep where the workspace is now")
        assert files.refresh().warnings == (GONE,)
    assert list((workspace / ".praxis-os").iterdir()) == []
    moved = away / ".praxis-os" / "state" / "workflows"
    other, _ = opened(moved)  # nobody holds the lock there
    other.close()
    assert found(moved) == {sid(1): begin(1)}
    (workspace / ".praxis-os").rmdir()
    workspace.rmdir()
    away.rename(workspace)
    files.acquire()
    files.save(begin(2))
    assert found(workspace / ".praxis-os" / "state" / "workflows") == {sid(1): begin(1), sid(2): begin(2)}


def test_a_file_in_place_of_the_folder_is_a_storage_error_and_reads_go_on(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("not a folder")
    files = SessionFiles(folder, who="test")
    assert files.refresh().warnings == ("the sessions' folder cannot be read: Not a directory",)
    with pytest.raises(StorageFailed, match="cannot be saved: File exists") as failed:
        files.acquire()
    assert "move the file away" in failed.value.remediation
    folder.unlink()
    files.acquire()
    files.save(begin(1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_storage_error(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    folder.chmod(0o500)
    try:
        with pytest.raises(StorageFailed, match="Permission denied") as failed:
            files.save(step(begin(1)))
        assert "make the sessions' folder writable" in failed.value.remediation
    finally:
        folder.chmod(0o700)
    assert found(folder) == {sid(1): begin(1)}


def test_a_full_disk_is_a_storage_error_and_the_old_session_stands(folder: Path) -> None:
    files, _ = opened(folder)
    files.save(begin(1))
    big = rules.pass_gate(begin(1), 1, evidence={"text": "x" * 200_000}, now=T0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageFailed, match="File too large") as failed:
            files.save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.remediation == "free disk space, then repeat the call; nothing has changed"
    assert found(folder) == {sid(1): begin(1)}
    assert not list(folder.glob(".*.tmp"))
    files.save(big)
    assert found(folder) == {sid(1): big}


CHANGES: dict[str, Callable[[SessionFiles], object]] = {
    "start": lambda files: files.save(begin(2)),
    "change": lambda files: files.save(step(step(begin(1)))),
    "delete": lambda files: delete(files, 1),
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_fails_at_any_call_changes_nothing_and_succeeds_when_repeated(
    tmp_path: Path, change: str, code: int
) -> None:
    n = 0
    while True:
        folder = tmp_path / str(n)
        calls = Faults(fail_at=-1, code=code)
        files, _ = opened(folder, calls=calls)
        files.save(begin(1))
        files.save(step(begin(1)))
        before = found(folder)
        calls.fail_at, calls.made = n, 0
        try:
            CHANGES[change](files)
        except StorageFailed:
            assert found(folder) == before
            CHANGES[change](files)
        after = found(folder)
        match change:
            case "start":
                assert after == {**before, sid(2): begin(2)}
            case "change":
                assert after == {sid(1): step(step(begin(1)))}
            case _:
                assert after == {}
        if not calls.failed:
            assert n >= 5
            return
        files.close()
        n += 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_at_any_call_fails_one_session_of_several_or_all_of_them_and_tells_which(
    tmp_path: Path, code: int
) -> None:
    told: set[tuple[bool, ...]] = set()
    before = {1: begin(1), 3: begin(3)}
    wanted = {1: step(begin(1)), 2: begin(2), 3: step(begin(3))}
    for n in itertools.count():
        calls = Faults(fail_at=-1, code=code)
        files, _ = opened(tmp_path / str(n), calls=calls)
        files.save(begin(1))
        files.save(begin(3))
        calls.fail_at, calls.made = n, 0
        outcomes = dict(zip(wanted, files.save_all(list(wanted.values())), strict=True))
        saved = {m: wanted[m] for m, outcome in outcomes.items() if not isinstance(outcome, Exception)}
        assert {m: outcomes[m] for m in saved} == {m: store(session) for m, session in saved.items()}
        assert found(tmp_path / str(n)) == {sid(m): session for m, session in {**before, **saved}.items()}
        told.add(tuple(isinstance(outcome, StorageFailed) for outcome in outcomes.values()))
        calls.fail_at = -1
        again = files.save_all(list(wanted.values()))
        assert again == [store(session) for session in wanted.values()]
        assert found(tmp_path / str(n)) == {sid(m): session for m, session in wanted.items()}
        if not calls.failed:
            break
        files.close()
    alone = {tuple(m == failed for m in wanted) for failed in wanted}
    assert told == {*alone, (True, True, True), (False, False, False)}


def test_several_sessions_share_one_sync_of_the_folder_and_one_that_was_edited_holds_no_other_up(
    folder: Path,
) -> None:
    recorder = Recorder(folder.parent.parent)
    files, _ = opened(folder, calls=recorder)
    files.save(begin(1))
    edited = folder / f"{sid(1)}.json"
    edited.write_bytes(encode_snapshot(begin(1, "edited.py")))
    recorder.calls.clear()
    first, *others = files.save_all([step(begin(1)), begin(2), begin(3)])
    assert isinstance(first, Overtaken)
    assert others == [store(begin(2)), store(begin(3))]
    assert recorder.calls.count("fsync_folder") == 1
    assert found(folder) == {sid(1): begin(1, "edited.py"), sid(2): begin(2), sid(3): begin(3)}


def test_sessions_saved_together_take_each_step_together_and_64_at_most(
    folder: Path,
) -> None:
    recorder = Recorder(folder.parent.parent)
    files, _ = opened(folder, calls=recorder)
    recorder.calls.clear()
    sessions = [begin(n) for n in range(70)]
    assert files.save_all(sessions) == [store(session) for session in sessions]

    def together(n: int) -> list[str]:
        return ["create", "write"] * n + ["fsync"] * n + ["rename"] * n + ["fsync_folder"]

    assert recorder.calls == together(64) + together(6)
    assert found(folder) == {session.session_id: session for session in sessions}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux tells them")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_among_sessions_saved_together_leaves_no_file_open_and_no_draft_behind(
    folder: Path, code: int
) -> None:
    calls = Faults(fail_at=-1, code=code)
    files, _ = opened(folder, calls=calls)
    files.save(begin(1))
    for n in itertools.count():
        calls.fail_at, calls.made, calls.failed = n, 0, 0
        before = len(os.listdir("/proc/self/fd"))
        files.save_all([begin(1), begin(2), begin(3)])
        assert len(os.listdir("/proc/self/fd")) == before
        if not calls.failed:
            break
        assert len(list(folder.glob(".*.tmp"))) == 0


class Interrupted(OsCalls):
    """Real calls, of which one fsync is broken off."""

    def __init__(self, at: int) -> None:
        self.syncs_left = at

    def fsync(self, fd: int) -> None:
        self.syncs_left -= 1
        if self.syncs_left < 0:
            raise KeyboardInterrupt
        super().fsync(fd)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux tells them")
def test_sessions_saved_together_that_are_broken_off_leave_no_file_open_and_no_draft_behind(
    folder: Path,
) -> None:
    calls = Interrupted(1_000)
    files, _ = opened(folder, calls=calls)
    before = len(os.listdir("/proc/self/fd"))
    calls.syncs_left = 1
    with pytest.raises(KeyboardInterrupt):
        files.save_all([begin(1), begin(2), begin(3)])
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(folder.glob(".*.tmp")) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_becoming_the_writer_fails_at_any_call_and_loses_nothing(
    tmp_path: Path, older: Path, code: int
) -> None:
    n = 0
    while True:
        folder = tmp_path / "state" / str(n) / "workflows"
        if n % 2:
            files, _ = opened(folder)
            files.save(begin(1))
            files.save(step(begin(1)))
            files.close()
            (folder / f"{sid(1)}.json").write_bytes(b"torn")
        calls = Faults(fail_at=n // 2, code=code)
        files = SessionFiles(folder, who="test", older=(older,), calls=calls)
        memory = dict(files.refresh().changed)
        try:
            memory |= files.acquire().changed
        except StorageFailed:
            memory |= files.acquire().changed
        calls.fail_at = -1
        files.save(begin(2))
        files.close()
        expected = {UPSTREAM, sid(1)} if n % 2 else {UPSTREAM}
        assert set(memory) == expected
        assert set(found(folder, older=(older,))) == expected | {sid(2)}
        if not calls.failed and n % 2:
            assert n > 20
            return
        n += 1


# Power loss


def record(root: Path, *without: str) -> Recorder:
    """A life of three sessions; marks are session and revision around each change, 0 for deleted."""
    recorder = Recorder(root, frozenset(without))
    files, _ = opened(root / "state" / "workflows", calls=recorder)

    def save(session: Session) -> Session:
        recorder.mark(("will", session.session_id, session.revision))
        files.save(session)
        recorder.mark(("did", session.session_id, session.revision))
        return session

    one = save(begin(1))
    two = save(step(save(begin(2))))
    one = save(step(save(step(one))))
    recorder.mark(("will", sid(1), 0))
    delete(files, 1)
    recorder.mark(("did", sid(1), 0))
    save(step(two))
    save(begin(3))
    return recorder


def losses(recorder: Recorder, scratch: Path) -> list[str]:
    """What the sessions' folder has lost after any cut, by reading it as the next process would."""
    lost: list[str] = []
    for number, crash in enumerate(crashes(recorder)):
        root = scratch / str(number)
        root.mkdir(parents=True)
        crash.put(root)
        news = SessionFiles(root / "state" / "workflows", who="next", calls=QUICK).refresh()
        revisions = {i: stored.summary.revision for i, stored in news.changed.items()}
        will: dict[str, int] = {}
        did: dict[str, int] = {}
        for mark in crash.marks:
            what, session_id, revision = msgspec.convert(mark, tuple[str, str, int])
            (will if what == "will" else did)[session_id] = revision
        for session_id in will.keys() | revisions.keys():
            allowed = {did.get(session_id, 0), will.get(session_id, 0)}
            if revisions.get(session_id, 0) not in allowed:
                lost.append(f"{session_id}: {revisions.get(session_id, 0)}, not {allowed}")
        lost += news.warnings
        for path in (root / "state" / "workflows").glob("[!.]*.json*"):
            try:
                read_session(open_snapshot(path.read_bytes(), session_id=path.name[:36]))
            except SnapshotDamaged as e:
                lost.append(f"{path.name}: {e}")
    return lost


def test_no_power_loss_takes_a_change_that_was_acknowledged_or_brings_a_deleted_one_back(
    tmp_path: Path,
) -> None:
    recorder = record(tmp_path / "real")
    assert losses(recorder, tmp_path / "cut") == []
    assert len(list(tmp_path.glob("cut/*"))) > 100


@pytest.mark.parametrize("call", ["fsync", "fsync_folder", "rename"])
def test_the_power_loss_shows_when_a_call_is_left_out(tmp_path: Path, call: str) -> None:
    assert losses(record(tmp_path / "real", call), tmp_path / "cut") != []


def test_no_power_loss_takes_what_was_acknowledged_to_several_writers_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "real")
    files, _ = opened(tmp_path / "real" / "state" / "workflows", calls=recorder)

    def write(n: int) -> None:
        for session in (begin(n), step(begin(n))):
            recorder.mark(("will", session.session_id, session.revision))
            files.save(session)
            recorder.mark(("did", session.session_id, session.revision))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses(recorder, tmp_path / "cut") == []


@pytest.mark.parametrize("without", [None, "fsync", "fsync_folder", "rename"])
def test_no_power_loss_takes_what_was_acknowledged_to_sessions_that_were_saved_together(
    tmp_path: Path, without: str | None
) -> None:
    """And with a call left out, it shows."""
    recorder = Recorder(tmp_path / "real", frozenset({without} if without else ()))
    files, _ = opened(tmp_path / "real" / "state" / "workflows", calls=recorder)
    for sessions in ([begin(1), begin(2)], [step(begin(1)), step(begin(2)), begin(3)]):
        for session in sessions:
            recorder.mark(("will", session.session_id, session.revision))
        files.save_all(sessions)
        for session in sessions:
            recorder.mark(("did", session.session_id, session.revision))
    assert bool(losses(recorder, tmp_path / "cut")) == bool(without)


# Killed


def test_a_writer_killed_at_any_instant_loses_nothing_acknowledged(folder: Path) -> None:
    """`MCPKEEP_KILLS=300` kills more often."""
    chance = random.Random(20260329)
    will: dict[str, int] = {}
    did: dict[str, int] = {}
    for n in range(int(os.environ.get("MCPKEEP_KILLS", "5"))):
        if n % 20 == 19:  # What has piled up is checked again after each kill.
            folder = folder.with_name(f"after-{n}")
            will, did = {}, {}
        with subprocess.Popen(
            [sys.executable, HERE / "session_writers.py", folder], stdout=subprocess.PIPE
        ) as writers:
            assert writers.stdout is not None
            lines: list[bytes] = []
            for _ in range(chance.randrange(600)):
                lines.append(writers.stdout.readline())
            writers.kill()
            lines += writers.stdout.readlines()
        for line in lines:
            what, session_id, told = line.decode().split()
            (will if what == "will" else did)[session_id] = int(told)
        files = SessionFiles(folder, who="next")
        news = files.refresh()
        assert (news.warnings, news.blocked) == ((), {})
        sessions = {i: read_session(stored) for i, stored in news.changed.items()}
        for session_id, revision in did.items():
            allowed = {revision, will.get(session_id, revision)}
            session = sessions.pop(session_id, None)
            assert (session.revision if session is not None else 0) in allowed
        # Sessions whose start was under way; not one that was deleted.
        assert all(session.revision == 1 for session in sessions.values())
        did.update(dict.fromkeys(sessions, 1))
