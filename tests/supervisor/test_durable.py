"""Durable writes: what stands after a failure, a cut, or several at once."""

import errno
import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from mcpkeep.supervisor.durable import (
    OS_CALLS,
    FileCalls,
    FileChanged,
    NotTakenBack,
    OsCalls,
    make_folders,
    remove_file,
    stamp_of,
    write_durably,
)
from mcpkeep.supervisor.file_system_sync import sync_file_system
from mcpkeep.supervisor.folder_sync import FolderSync
from tests.faults import Faults
from tests.powerloss import Recorder, crashes

OLD, NEW = b"the old content\n", b"the new content, which is longer\n"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_write_replaces_the_file_and_keeps_the_previous_generation(tmp_path: Path) -> None:
    target, previous = tmp_path / "a", tmp_path / "a.previous"
    for data in (b"1", b"2", b"3"):
        stamp = write_durably(target, data, previous=previous)
    assert contents(tmp_path) == {"a": b"3", "a.previous": b"2"}
    assert stamp == stamp_of(target)


def test_a_file_is_for_its_owner_only(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"secret")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_file_that_somebody_else_changed_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a"
    stamp = write_durably(target, OLD)
    target.write_bytes(b"edited by hand")
    with pytest.raises(FileChanged):
        write_durably(target, NEW, expected=stamp)
    with pytest.raises(FileChanged):
        write_durably(target, NEW, expected="absent")
    assert contents(tmp_path) == {"a": b"edited by hand"}


def test_a_tree_is_synced_whole_where_only_fsync_can_be_trusted(tmp_path: Path) -> None:
    synced: list[int] = []

    class Noting(OsCalls):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            synced.append(os.fstat(fd).st_ino)

    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"1")
    (tmp_path / "a" / "b" / "file").write_bytes(b"2")
    (tmp_path / "a" / "link").symlink_to("/etc/hostname")
    Noting().sync_each(tmp_path)
    paths = [tmp_path / path for path in ("", "a", "a/file", "a/b", "a/b/file")]
    assert sorted(synced) == sorted(path.stat().st_ino for path in paths)


@pytest.mark.skipif(sys.platform != "linux", reason="asks for /proc")
def test_a_file_system_that_is_not_known_is_not_trusted_to_sync_as_a_whole(tmp_path: Path) -> None:
    assert not sync_file_system(Path("/proc"))
    OsCalls().sync_tree(tmp_path)


def test_a_file_that_vanished_is_written_again(tmp_path: Path) -> None:
    target = tmp_path / "a"
    stamp = write_durably(target, OLD)
    target.unlink()
    write_durably(target, NEW, expected=stamp)
    assert contents(tmp_path) == {"a": NEW}


def test_content_that_the_kernel_takes_in_pieces_arrives_whole(tmp_path: Path) -> None:
    class Sips(OsCalls):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            return super().write(fd, data[:3])

    write_durably(tmp_path / "a", NEW, calls=Sips())
    assert contents(tmp_path) == {"a": NEW}


def test_a_file_system_without_hard_links_keeps_a_copy(tmp_path: Path) -> None:
    class NoLinks(OsCalls):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no hard links here")

    for data in (b"1", b"2", b"3"):
        write_durably(tmp_path / "a", data, previous=tmp_path / "a.previous", calls=NoLinks())
    assert contents(tmp_path) == {"a": b"3", "a.previous": b"2"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("from_then_on", [False, True])
def test_a_write_that_fails_at_any_call_leaves_the_old_file_and_the_next_one_succeeds(
    tmp_path: Path, code: int, from_then_on: bool
) -> None:
    n = 0
    while True:
        folder = tmp_path / str(n)
        folder.mkdir()
        target, previous = folder / "a", folder / "a.previous"
        write_durably(target, b"the first", previous=previous)
        write_durably(target, OLD, previous=previous)
        calls = Faults(fail_at=n, code=code, from_then_on=from_then_on)
        try:
            write_durably(target, NEW, previous=previous, calls=calls)
        except NotTakenBack as e:
            assert from_then_on, "a single failure is always taken back"
            assert (target.read_bytes(), stamp_of(target)) == (NEW, e.stamp)
            assert previous.read_bytes() == OLD
        except OSError as e:
            assert e.errno == code
            assert target.read_bytes() == OLD
        else:
            assert calls.failed == 0
            assert target.read_bytes() == NEW
            break
        write_durably(target, NEW, previous=previous)
        assert target.read_bytes() == NEW
        n += 1
    assert n == 7, "create, write, fsync, unlink, link, rename and the folder's fsync were all tried"


def test_a_failed_fsync_is_not_tried_again_on_the_same_file(tmp_path: Path) -> None:
    made: list[Path] = []

    class FailsOnce(OsCalls):
        def create(self, path: Path) -> int:
            made.append(path)
            return super().create(path)

        def fsync(self, fd: int) -> None:
            if len(made) == 1:
                raise OSError(errno.EIO, "the disk said no")

    calls = FailsOnce()
    with pytest.raises(OSError, match="the disk said no"):
        write_durably(tmp_path / "a", NEW, calls=calls)
    assert contents(tmp_path) == {}
    write_durably(tmp_path / "a", NEW, calls=calls)
    assert len(set(made)) == 2


def loses(recorder: Recorder) -> list[str]:
    """What a power loss takes of a file whose generations were marked as they were acknowledged."""
    lost: list[str] = []
    for crash in crashes(recorder):
        acknowledged = cast("tuple[bytes, ...]", crash.marks)
        found = crash.files.get(Path("folder/a"))
        allowed = {acknowledged[-1] if acknowledged else None, b"%d" % (len(acknowledged) + 1) * 50}
        if found not in allowed:
            lost.append(f"after {acknowledged!r}: {found!r}")
        kept = crash.files.get(Path("folder/a.previous"))
        if kept is not None and kept not in {b"%d" % n * 50 for n in range(9)}:
            lost.append(f"the previous generation is {kept!r}")
    return lost


def record(root: Path, *without: str) -> Recorder:
    recorder = Recorder(root, frozenset(without))
    folder = root / "folder"
    make_folders(folder, calls=recorder)
    for n in (1, 2, 3):
        write_durably(folder / "a", b"%d" % n * 50, previous=folder / "a.previous", calls=recorder)
        recorder.mark(b"%d" % n * 50)
    return recorder


def test_no_power_loss_takes_what_was_acknowledged(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    assert loses(recorder) == []
    assert recorder.calls[-7:] == ["create", "write", "fsync", "unlink", "link", "rename", "fsync_folder"]


@pytest.mark.parametrize("call", ["fsync", "fsync_folder", "rename", "temp"])
def test_a_power_loss_shows_when_a_call_is_left_out(tmp_path: Path, call: str) -> None:
    assert loses(record(tmp_path, call)) != []


def test_a_folder_that_is_there_already_is_synced_all_the_same(tmp_path: Path) -> None:
    """Whoever made it may have been killed before its fsync."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    recorder = Recorder(tmp_path)
    make_folders(folder, calls=recorder)
    assert recorder.calls == ["fsync_folder", "fsync_folder"]


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(FileExistsError):
            make_folders(folder)


def test_removing_says_whether_there_was_something(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert (remove_file(tmp_path / "a"), remove_file(tmp_path / "a")) == (True, False)


@dataclass
class Gate(OsCalls):
    """Lets the fsyncs of a folder through one by one."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    rounds: int = 0
    broken: bool = False

    def fsync_folder(self, path: Path) -> None:
        self.rounds += 1
        self.entered.release()
        self.go.acquire()
        if self.broken:
            raise OSError(errno.EIO, "the disk said no")


def test_who_comes_while_a_folder_is_synced_shares_the_next_one(tmp_path: Path) -> None:
    gate = Gate()
    sync = FolderSync(tmp_path, calls=gate)
    threads = [threading.Thread(target=sync) for _ in range(21)]
    threads[0].start()
    gate.entered.acquire()
    for thread in threads[1:]:
        thread.start()
    while sync.waiting < 20:
        os.sched_yield()
    gate.go.release(2)
    for thread in threads:
        thread.join()
    assert gate.rounds == 2


def test_a_failed_sync_fails_for_everyone_who_shared_it_and_for_nobody_after(tmp_path: Path) -> None:
    gate = Gate(broken=True)
    sync = FolderSync(tmp_path, calls=gate)
    gate.go.release()
    with pytest.raises(OSError, match="the disk said no"):
        sync()
    gate.broken = False
    gate.go.release()
    sync()
    assert gate.rounds == 2


def test_the_real_calls_are_file_calls() -> None:
    calls: FileCalls = OS_CALLS
    assert isinstance(calls, OsCalls)
