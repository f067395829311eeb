"""Backups and restores on a disk that fails, with a process that is killed, and through a power loss.

What is listed is always whole; after a restore that was cut off, old or new stands, and no byte of the user's
is lost.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import FileCalls, OsCalls, make_folders, write_durably
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.copying import walk
from mcpkeep.supervisor.upgrade.layout import Layout
from tests.faults import CountedCalls, Faults, Killed, Kills
from tests.powerloss import Recorder, crashes

NOW = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
ID = "2026-01-31-101500"
CODES = [errno.ENOSPC, errno.EIO, errno.EACCES]
OLD: dict[str, bytes] = {"mcp_server/m.py": b"m\n", "standards/a.md": b"a\n", "config.json": b"{}\n"}
EDITED: dict[str, bytes] = {
    "standards/a.md": b"edited\n",
    "standards/new.md": b"new\n",
    "config.json": b"{}\n",
}
RESTORED: dict[str, bytes] = {**OLD, "standards/new.md": b"new\n"}


def unchecked() -> None:
    """Work that is wanted to its end."""


def plant(base: Path, files: dict[str, bytes], calls: FileCalls) -> None:
    for path, data in files.items():
        make_folders((base / path).parent, calls=calls)
        write_durably(base / path, data, calls=calls)


def contents(base: Path) -> dict[str, bytes]:
    return {path: (base / path).read_bytes() for path in walk(base, content=True).files}


def kept(base: Path) -> set[bytes]:
    conflicts = base / ".mcpkeep" / "conflicts"
    return (
        {(conflicts / path).read_bytes() for path in walk(conflicts).files} if conflicts.exists() else set()
    )


@dataclass
class Workspace:
    """An installation at its edited state, with a backup of its old one."""

    base: Path

    @classmethod
    def make(cls, root: Path, calls: FileCalls | None = None) -> "Workspace":
        calls = calls or Faults(-1, 0)
        base = root / ".praxis-os"
        calls.mkdir(base)
        self = cls(base)
        plant(base, OLD, calls)
        self.create(calls)
        for path in sorted(OLD.keys() - EDITED.keys()):
            calls.unlink(base / path)
            calls.fsync_folder((base / path).parent)
        plant(base, EDITED, calls)
        return self

    def store(self, calls: FileCalls) -> BackupFiles:
        return BackupFiles(Layout(self.base.parent, self.base), calls=calls)

    def create(self, calls: FileCalls) -> None:
        self.store(calls).create("s", release=None, requirements="x\n", now=NOW, check=unchecked)

    def restore(self, calls: FileCalls) -> None:
        self.store(calls).restore(ID, "s", check=unchecked)

    def recover(self) -> None:
        self.store(Faults(-1, 0)).recover()

    def listed(self) -> list[str]:
        """All backups by name; each must be whole."""
        store = self.store(OsCalls())
        names = [info.backup_id for info in store.backups()]
        assert [store.verify(name, check=unchecked).verified for name in names] == [True] * len(names)
        return names


def counted(tmp_path: Path, work: Callable[[Workspace, FileCalls], None], calls: CountedCalls) -> int:
    """How many calls the work makes."""
    root = tmp_path / "count"
    root.mkdir()
    work(Workspace.make(root), calls)
    return calls.made


def fresh(tmp_path: Path, number: int) -> Workspace:
    root = tmp_path / str(number)
    root.mkdir()
    return Workspace.make(root)


@pytest.mark.parametrize("from_then_on", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_a_backup_that_fails_anywhere_is_refused_and_never_listed(
    tmp_path: Path, code: int, from_then_on: bool
) -> None:
    refused = 0
    for n in range(counted(tmp_path, Workspace.create, Faults(-1, 0))):
        workspace = fresh(tmp_path, n)
        try:
            workspace.create(Faults(n, code, from_then_on))
        except OSError as e:
            assert e.errno == code
            refused += 1
            # What cannot even be renamed back had been whole and synced before its folder's sync failed.
            if not from_then_on:
                assert workspace.listed() == [ID]
        assert set(workspace.listed()) >= {ID}
        assert contents(workspace.base) == EDITED
        workspace.store(OsCalls()).remove_old(9)
        assert sorted(os.listdir(workspace.base / ".backups")) == [".gitignore", *sorted(workspace.listed())]
    assert refused > 20


def test_a_backup_that_is_killed_anywhere_is_whole_or_not_listed(tmp_path: Path) -> None:
    for n in range(counted(tmp_path, Workspace.create, Kills(10**9))):
        workspace = fresh(tmp_path, n)
        with pytest.raises(Killed):
            workspace.create(Kills(n))
        assert set(workspace.listed()) >= {ID}
        workspace.create(OsCalls())
        assert len(workspace.listed()) >= 2
        assert not [name for name in os.listdir(workspace.base / ".backups") if name.startswith(".making")]


def test_a_removal_that_is_killed_anywhere_leaves_only_whole_backups_listed(tmp_path: Path) -> None:
    def remove(workspace: Workspace, calls: FileCalls) -> None:
        workspace.store(calls).remove_old(0)

    for n in range(counted(tmp_path, remove, Kills(10**9))):
        workspace = fresh(tmp_path, n)
        with pytest.raises(Killed):
            remove(workspace, Kills(n))
        assert workspace.listed() == [ID] * (n == 0)
        remove(workspace, OsCalls())
        assert os.listdir(workspace.base / ".backups") == [".gitignore"]


def test_a_backup_that_cannot_be_removed_stays_and_is_said_to(tmp_path: Path) -> None:
    workspace = fresh(tmp_path, 0)
    answer = workspace.store(Faults(0, errno.EACCES, from_then_on=True)).remove_old(0)
    assert (answer.removed, answer.kept, workspace.listed()) == ((), (ID,), [ID])


@pytest.mark.parametrize("code", CODES)
def test_a_restore_that_fails_anywhere_leaves_old_or_new_and_loses_nothing(tmp_path: Path, code: int) -> None:
    states: set[bool] = set()
    for n in range(counted(tmp_path, Workspace.restore, Faults(-1, 0))):
        workspace = fresh(tmp_path, n)
        calls = Faults(n, code)
        try:
            workspace.restore(calls)
        except OSError as e:
            assert e.errno == code
        workspace.recover()
        states.add(check_restored(workspace.base))
    assert states == {False, True}


def test_a_restore_that_is_killed_anywhere_is_finished_or_forgotten(tmp_path: Path) -> None:
    states: list[bool] = []
    for n in range(counted(tmp_path, Workspace.restore, Kills(10**9))):
        workspace = fresh(tmp_path, n)
        with pytest.raises(Killed):
            workspace.restore(Kills(n))
        # The recovery is killed too, at each of its calls in turn.
        for m in count():
            try:
                workspace.store(Kills(m)).recover()
            except Killed:
                continue
            break
        states.append(check_restored(workspace.base))
    assert states == sorted(states)
    assert set(states) == {False, True}


def check_restored(base: Path) -> bool:
    """Whether the tree is as restored; else it must be as edited. Nothing is lost either way.

    More may be kept aside after a replay, which gives files new inodes and times: they seem edited.
    """
    found = contents(base)
    assert found in (EDITED, RESTORED)
    restored = found == RESTORED
    aside = kept(base)
    assert b"edited\n" in aside and aside <= set(EDITED.values()) if restored else not aside
    assert not (base / ".mcpkeep" / "restoring").exists()
    return restored


def test_after_a_power_loss_every_backup_that_is_listed_is_whole(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorder = Recorder(root)
    workspace = Workspace.make(root, recorder)
    recorder.mark("first")
    workspace.create(recorder)
    recorder.mark("second")
    workspace.store(recorder).remove_old(1)
    seen: set[tuple[str, ...]] = set()
    for n, crash in enumerate(crashes(recorder)):
        lost = tmp_path / f"crash-{n}"
        lost.mkdir()
        crash.put(lost)
        listed = Workspace(lost / ".praxis-os").listed()
        assert len(listed) >= len(set(crash.marks) & {"first"})
        seen.add(tuple(listed))
    assert seen == {(), (ID,), (f"{ID}-2", ID), (f"{ID}-2",)}


def test_without_the_sync_a_power_loss_would_show_half_a_backup(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorder = Recorder(root, without=frozenset({"sync_tree"}))
    Workspace.make(root, recorder)
    with pytest.raises((AssertionError, UpgradeFailed)):
        for n, crash in enumerate(crashes(recorder)):
            lost = tmp_path / f"crash-{n}"
            lost.mkdir()
            crash.put(lost)
            Workspace(lost / ".praxis-os").listed()


def test_a_restore_that_loses_power_is_finished_or_forgotten(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorder = Recorder(root)
    workspace = Workspace.make(root, recorder)
    recorder.mark("made")
    workspace.restore(recorder)
    recorder.mark("restored")
    states: set[bool] = set()
    for n, crash in enumerate(crashes(recorder)):
        if "made" not in crash.marks:
            continue
        lost = tmp_path / f"crash-{n}"
        lost.mkdir()
        crash.put(lost)
        after = Workspace(lost / ".praxis-os")
        after.recover()
        states.add(check_restored(after.base))
        assert contents(after.base) == RESTORED or "restored" not in crash.marks
    assert states == {False, True}
