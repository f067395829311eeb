"""A damaged tree restored from a backup: what comes back, what is carried over, what is kept aside."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.backup import RestoreDone
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.copying import walk
from mcpkeep.supervisor.upgrade.layout import Layout

NOW = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
ID = "2026-01-31-101500"
OLD = {
    "mcp_server/__main__.py": b"the old server\n",
    "mcp_server/sub/deep.py": b"deep\n",
    "standards/universal/a.md": b"a of old\n",
    "standards/universal/b.md": b"b of old\n",
    "standards/development/ours.md": b"ours, of old\n",
    "specs/approved/one.md": b"one\n",
    "config.json": b"{}\n",
}


def unchecked() -> None:
    """Work that is wanted to its end."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "project" / ".praxis-os"
    base.mkdir(parents=True)
    plant(base, OLD)
    return base


@pytest.fixture
def store(base: Path) -> BackupFiles:
    store = BackupFiles(Layout(base.parent, base))
    store.create("first", release=None, requirements="", now=NOW, check=unchecked)
    return store


def plant(base: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(data)


def contents(base: Path) -> dict[str, bytes | str]:
    tree = walk(base, content=True)
    return {path: (base / path).read_bytes() for path in tree.files} | {
        path: os.readlink(base / path) for path in tree.links
    }


def kept(base: Path) -> dict[str, bytes]:
    conflicts = base / ".mcpkeep" / "conflicts" / "s"
    return {path: (conflicts / path).read_bytes() for path in walk(conflicts).files}


def restore(store: BackupFiles) -> RestoreDone:
    return store.restore(ID, "s", check=unchecked)


def test_a_damaged_tree_is_what_it_was_and_the_users_files_are_carried_over(
    base: Path, store: BackupFiles
) -> None:
    os.utime(base / "standards/universal/a.md", ns=(1, 123456789))
    (base / "mcp_server/__main__.py").chmod(0o755)
    (base / "mcp_server/sub/deep.py").unlink()
    (base / "mcp_server/sub").rmdir()
    (base / "config.json").unlink()
    (base / "specs/approved/one.md").unlink()
    live = {
        "standards/universal/a.md": b"damaged",
        "standards/development/ours.md": b"ours, edited\n",
        "standards/development/new.md": b"new\n",
        "workflows/ours_v1/metadata.json": b"{}",
        "specs/review/two.md": b"two\n",
        "NOTES.md": b"notes\n",
    }
    plant(base, live)
    plant(base, {"mcp_server/__pycache__/x.pyc": b"", "venv/bin/python": b"", "state/s.json": b""})
    (base / "standards" / "link.md").symlink_to("universal/b.md")
    inode = (base / "standards/development/new.md").stat().st_ino
    unchanged = (base / "specs/review/two.md").stat().st_mtime_ns
    assert restore(store) == RestoreDone(
        ID,
        6,
        (
            *("NOTES.md", "specs/review/two.md", "standards/development/new.md"),
            *("standards/development/ours.md", "standards/link.md", "workflows/ours_v1/metadata.json"),
        ),
        {"standards/universal/a.md": ".mcpkeep/conflicts/s/standards/universal/a.md"},
    )
    assert contents(base) == OLD | live | {
        "standards/universal/a.md": b"a of old\n",
        "standards/link.md": "universal/b.md",
    }
    assert kept(base) == {"standards/universal/a.md": b"damaged"}
    assert (base / "standards/development/new.md").stat().st_ino == inode
    assert (base / "specs/review/two.md").stat().st_mtime_ns == unchanged
    backup = base / ".backups" / ID
    for path in ("standards/universal/a.md", "config.json"):
        assert (base / path).stat().st_mtime_ns == (backup / path).stat().st_mtime_ns
    assert (base / "mcp_server/__main__.py").stat().st_mode & 0o777 == 0o644
    assert (base / "venv/bin/python").exists()
    assert (base / "state/s.json").exists()
    assert not (base / "mcp_server/__pycache__").exists()
    assert not (base / ".mcpkeep/restoring").exists()
    assert not (base / "requirements-snapshot.txt").exists()


def test_files_folders_and_links_in_each_others_places_give_way_and_are_kept_aside(
    base: Path, store: BackupFiles
) -> None:
    (base / "mcp_server" / "__main__.py").unlink()
    plant(base, {"mcp_server/__main__.py/inside": b"in a folder"})
    (base / "mcp_server/sub/deep.py").unlink()
    (base / "mcp_server/sub").rmdir()
    plant(base, {"mcp_server/sub": b"a file"})
    (base / "standards").rename(base / "moved")
    (base / "standards").symlink_to("moved")
    done = restore(store)
    assert contents(base) == OLD | {
        path.replace("standards", "moved"): OLD[path]
        for path in OLD
        if "/" in path and path.startswith("standards")
    }
    conflicts = base / ".mcpkeep" / "conflicts" / "s"
    assert set(done.kept_aside) == {"mcp_server/__main__.py/inside", "mcp_server/sub", "standards"}
    assert (conflicts / "mcp_server/__main__.py/inside").read_bytes() == b"in a folder"
    assert (conflicts / "mcp_server/sub").read_bytes() == b"a file"
    assert os.readlink(conflicts / "standards") == "moved"


def test_an_edit_of_the_last_moment_is_kept_aside(base: Path) -> None:
    class Editing(OsCalls):
        """The user saves a file when all is ready, right before the swap."""

        def rename(self, source: Path, target: Path) -> None:
            if target == base / ".mcpkeep/restoring/old/standards":
                plant(base, {"standards/universal/a.md": b"just now", "standards/universal/new.md": b"new"})
            super().rename(source, target)

    store = BackupFiles(Layout(base.parent, base), calls=Editing())
    store.create("first", release=None, requirements="", now=NOW, check=unchecked)
    assert set(restore(store).kept_aside) == {"standards/universal/a.md", "standards/universal/new.md"}
    assert contents(base) == OLD
    assert kept(base) == {"standards/universal/a.md": b"just now", "standards/universal/new.md": b"new"}


def test_what_is_kept_aside_never_replaces_what_was_kept_before(base: Path, store: BackupFiles) -> None:
    for text in (b"1", b"2", b"3"):
        plant(base, {"config.json": text})
        restore(store)
    assert kept(base) == {"config.json": b"1", "config.json~2": b"2", "config.json~3": b"3"}


def test_a_file_system_without_hard_links_carries_over_by_copies(base: Path) -> None:
    class NoLinks(OsCalls):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(1, "no hard links here")

    store = BackupFiles(Layout(base.parent, base), calls=NoLinks())
    store.create("first", release=None, requirements="", now=NOW, check=unchecked)
    plant(base, {"standards/development/new.md": b"new\n"})
    mtime = (base / "standards/development/new.md").stat().st_mtime_ns
    restore(store)
    assert contents(base) == OLD | {"standards/development/new.md": b"new\n"}
    assert (base / "standards/development/new.md").stat().st_mtime_ns == mtime


def test_a_damaged_backup_is_refused_and_the_next_whole_one_offered(base: Path, store: BackupFiles) -> None:
    for day in (1, 2, 3):
        store.create("s", release=None, requirements="", now=NOW.replace(day=day), check=unchecked)
    backups = base / ".backups"
    (backups / ID / "config.json").write_bytes(b"rotten")
    (backups / ID / "mcp_server" / "__main__.py").unlink()
    (backups / "2026-01-03-101500" / "config.json").unlink()
    before = contents(base)
    with pytest.raises(UpgradeFailed) as refused:
        restore(store)
    assert str(refused.value) == f"backup '{ID}' is damaged: 'config.json', 'mcp_server/__main__.py'"
    assert refused.value.remediation == (
        "restore the next older one, '2026-01-02-101500', which was read and is whole"
    )
    assert refused.value.details == {
        "mismatches": ("config.json",),
        "missing": ("mcp_server/__main__.py",),
        "next_older": "2026-01-02-101500",
    }
    assert contents(base) == before
    for day in (1, 2):
        (backups / f"2026-01-0{day}-101500" / "config.json").unlink()
    with pytest.raises(UpgradeFailed) as refused:
        restore(store)
    assert refused.value.remediation.startswith("there is no older backup that is whole")


class Unwanted(Exception):
    pass


def test_a_restore_that_is_not_wanted_any_more_leaves_the_tree_as_it_is(
    base: Path, store: BackupFiles
) -> None:
    plant(base, {"config.json": b"edited"})
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == 12:
            raise Unwanted

    with pytest.raises(Unwanted):
        store.restore(ID, "s", check=check)
    assert contents(base) == OLD | {"config.json": b"edited"}
    assert os.listdir(base / ".mcpkeep") == []
