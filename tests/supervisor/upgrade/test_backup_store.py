"""Backups on a real disk: what is in them, what is not, and what becomes of damaged and foreign ones."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from mcpkeep.protocol.upgrade.backup import BackedUpFile, BackupDone, BackupInfo, RemovedBackups, Verification
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.copying import copy_file, spread, walk
from mcpkeep.supervisor.upgrade.layout import Layout

NOW = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
ID = "2026-01-31-101500"
ROOT = os.geteuid() == 0


def unchecked() -> None:
    """Work that is wanted to its end."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "project" / ".praxis-os"
    base.mkdir(parents=True)
    return base


@pytest.fixture
def store(base: Path) -> BackupFiles:
    return BackupFiles(Layout(base.parent, base))


def plant(base: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(data)


def create(store: BackupFiles, *, now: datetime = NOW, requirements: str = "x==1\n") -> BackupDone:
    return store.create("session", release=None, requirements=requirements, now=now, check=unchecked)


def contents(folder: Path) -> dict[str, bytes | str]:
    tree = walk(folder)
    return {path: (folder / path).read_bytes() for path in tree.files} | {
        path: os.readlink(folder / path) for path in tree.links
    }


def entry(data: bytes, mode: int = 0o644) -> BackedUpFile:
    return BackedUpFile(hashlib.sha256(data).hexdigest(), len(data), mode)


def test_a_backup_holds_all_content_byte_for_byte_with_its_manifest(base: Path, store: BackupFiles) -> None:
    files = {
        "mcp_server/__main__.py": b"print()\n",
        "standards/universal/crlf.md": b"a\r\nb\r\n",
        "standards/development/Über uns & wir.md": "Größe\n".encode(),
        "workspace/design/logo.png": bytes(range(256)),
        "config.json": b"{}",
        "specs/empty.md": b"",
    }
    plant(base, files)
    (base / "scripts").mkdir()
    (base / "scripts" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (base / "scripts" / "run.sh").chmod(0o755)
    (base / "config.json").chmod(0o400)
    (base / "link.md").symlink_to("standards/../../outside")
    (base / "specs" / "review").mkdir(mode=0o700)
    done = create(store)
    expected = {path: entry(data) for path, data in files.items()} | {
        "config.json": entry(b"{}", 0o400),
        "scripts/run.sh": entry(b"#!/bin/sh\n", 0o755),
        "link.md": BackedUpFile(
            hashlib.sha256(b"standards/../../outside").hexdigest(), 23, 0o777, "standards/../../outside"
        ),
        "requirements-snapshot.txt": entry(b"x==1\n", 0o600),
    }
    assert done.backup_id == ID
    assert dict(done.manifest.files) == expected
    manifest = done.manifest
    assert (manifest.path, manifest.timestamp) == (".praxis-os/.backups/2026-01-31-101500", NOW)
    assert manifest.total_size == sum(file.size for file in expected.values())
    assert store.manifest(ID) == manifest
    backup = base / ".backups" / ID
    saved = contents(backup)
    del saved["MANIFEST.json"]
    assert saved == files | {
        "scripts/run.sh": b"#!/bin/sh\n",
        "link.md": "standards/../../outside",
        "requirements-snapshot.txt": b"x==1\n",
    }
    for path in files:
        here, there = (base / path).stat(), (backup / path).stat()
        assert (here.st_mode, here.st_mtime_ns) == (there.st_mode, there.st_mtime_ns)
    assert (backup / "specs" / "review").stat().st_mode & 0o777 == 0o700
    assert backup.stat().st_mode & 0o777 == 0o700
    assert (base / ".backups" / ".gitignore").read_bytes() == b"*\n"
    assert store.verify(ID, check=unchecked) == Verification(ID, len(expected), (), (), ())


def test_what_is_no_content_is_left_out_and_said_so(
    base: Path, store: BackupFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(
        base,
        dict.fromkeys(
            (
                *(
                    ".cache/vector_index/data",
                    "venv/bin/python",
                    ".venv-old/x",
                    ".mcpkeep/pid",
                    "state/a.json",
                ),
                *(
                    ".upgrade-lock",
                    ".mcp_server_state.json",
                    "mcp_server/__pycache__/a.pyc",
                    "mcp_server/b.pyc",
                ),
                *(
                    "standards/.rebuild_index",
                    "standards/a.md.mcpkeep-3.tmp",
                    "venv-new/pyvenv.cfg",
                    "MANIFEST.json",
                ),
                *("requirements-snapshot.txt", "workspace/venv/kept", "standards/state/kept"),
            ),
            b"x",
        ),
    )
    os.mkfifo(base / "fifo")
    monkeypatch.chdir(base)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")  # the whole path may be too long for one
    create(store)
    manifest = create(store).manifest
    assert set(manifest.files) == {"requirements-snapshot.txt", "workspace/venv/kept", "standards/state/kept"}
    assert manifest.left_out == (
        *(".backups", ".cache", ".mcp_server_state.json", ".mcpkeep", ".upgrade-lock", ".venv-old"),
        *("MANIFEST.json", "fifo", "mcp_server/__pycache__", "mcp_server/b.pyc", "requirements-snapshot.txt"),
        *("socket", "standards/.rebuild_index", "standards/a.md.mcpkeep-3.tmp", "state", "venv", "venv-new"),
    )
    assert manifest.files["requirements-snapshot.txt"] == entry(b"x==1\n", 0o600)


def test_backups_within_one_second_get_numbers_and_are_listed_newest_first(
    base: Path, store: BackupFiles
) -> None:
    plant(base, {"a": b"1"})
    second = NOW + timedelta(seconds=1)
    names = [create(store, now=now).backup_id for now in [*[NOW] * 11, second]]
    assert names == [ID, *(f"{ID}-{n}" for n in range(2, 12)), "2026-01-31-101501"]
    assert [info.backup_id for info in store.backups()] == names[::-1]
    assert store.backups()[-1] == BackupInfo(ID, NOW, "session", None, 2, 6, complete=True)


def test_a_tree_of_many_files_is_copied_by_several_threads_as_well(base: Path, store: BackupFiles) -> None:
    files = {f"standards/{n % 20}/{n}.md": f"{n}\n".encode() * n for n in range(1_500)}
    plant(base, files)
    done = create(store)
    assert {path: file.sha256 for path, file in done.manifest.files.items() if path in files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    assert store.verify(ID, check=unchecked) == Verification(ID, 1_501, (), (), ())


def test_holes_stay_holes_and_large_files_arrive_whole(base: Path, store: BackupFiles) -> None:
    with (base / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"the end")
        file.truncate((66 << 20) + 5)
    (base / "dense").write_bytes(os.urandom(2 << 20))
    manifest = create(store).manifest
    copy = base / ".backups" / ID / "sparse"
    assert copy.stat().st_size == (66 << 20) + 5
    assert copy.stat().st_blocks * 512 < 2 << 20
    assert manifest.files["dense"] == entry((base / "dense").read_bytes())
    assert store.verify(ID, check=unchecked).verified


def test_damage_is_named_by_kind(base: Path, store: BackupFiles) -> None:
    plant(base, {name: name.encode() for name in ("same", "changed", "gone", "linked", "s/inside")})
    (base / "link").symlink_to("same")
    create(store)
    backup = base / ".backups" / ID
    (backup / "changed").write_bytes(b"CHANGED")
    (backup / "gone").unlink()
    (backup / "new").write_bytes(b"")
    (backup / "linked").unlink()
    (backup / "linked").symlink_to(base / "linked")
    (backup / "link").unlink()
    (backup / "link").symlink_to("changed")
    (backup / "s").rename(base / "outside")
    (backup / "s").symlink_to(base / "outside")
    assert store.verify(ID, check=unchecked) == Verification(
        ID, 5, ("changed", "link", "linked"), ("gone", "s/inside"), ("new", "s")
    )


@pytest.mark.parametrize(
    "backup_id", ["", "..", "../..", "2026-01-31", f"{ID}/..", f"{ID}\n", f"{ID}-0", "x"]
)
def test_a_name_that_is_none_is_never_looked_for(store: BackupFiles, backup_id: str) -> None:
    with pytest.raises(UpgradeFailed) as refused:
        store.verify(backup_id, check=unchecked)
    assert str(refused.value) == f"there is no backup {backup_id!r}"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//x", "./x", "", "a\0b", "a/.."])
def test_a_manifest_with_a_path_out_of_the_backup_is_refused_by_name(
    base: Path, store: BackupFiles, path: str
) -> None:
    plant(base, {"a": b"1"})
    done = create(store)
    bad = msgspec.structs.replace(done.manifest, files={**done.manifest.files, path: entry(b"")})
    (base / ".backups" / ID / "MANIFEST.json").write_bytes(msgspec.json.encode(bad))
    for work in (
        lambda: store.verify(ID, check=unchecked),
        lambda: store.restore(ID, "s", check=unchecked),
    ):
        with pytest.raises(UpgradeFailed) as refused:
            work()
        assert str(refused.value) == f"the manifest of backup '{ID}' names {path!r}, which leads out of it"
    assert (base / "a").read_bytes() == b"1"


def test_foreign_and_broken_folders_are_passed_over_and_left_alone(base: Path, store: BackupFiles) -> None:
    plant(base, {"a": b"1"})
    create(store)
    create(store, now=NOW + timedelta(days=1))
    backups = base / ".backups"
    theirs = backups / "2025-10-08-103045"
    theirs.mkdir()
    (theirs / "MANIFEST.json").write_text('{"timestamp": "2025-10-08-103045", "files": {}}')
    (backups / "notes").mkdir()
    (backups / "2026-99-99-999999").mkdir()
    (backups / "2026-01-30-000000").symlink_to(ID)
    (backups / "2026-01-29-000000").write_text("a file")
    (backups / f".making-{ID}-7").mkdir()
    future = backups / "2027-01-01-000000"
    future.mkdir()
    (future / "MANIFEST.json").write_bytes(
        (backups / ID / "MANIFEST.json").read_bytes().replace(b'"schema": 1', b'"schema": 2')
    )
    assert [(info.backup_id, info.complete) for info in store.backups()] == [
        ("2027-01-01-000000", False),
        ("2026-99-99-999999", False),
        ("2026-02-01-101500", True),
        (ID, True),
        ("2025-10-08-103045", False),
    ]
    for name, text in {
        "2025-10-08-103045": "the manifest of backup '2025-10-08-103045' is not one: ",
        "2026-99-99-999999": "the manifest of backup '2026-99-99-999999' cannot be read: No such file",
        "2027-01-01-000000": "backup '2027-01-01-000000' has schema 2, which is not known here",
    }.items():
        with pytest.raises(UpgradeFailed) as refused:
            store.verify(name, check=unchecked)
        assert str(refused.value).startswith(text)
    assert store.remove_old(1) == RemovedBackups((ID,), ("2026-02-01-101500",))
    assert sorted(os.listdir(backups)) == [
        *(".gitignore", "2025-10-08-103045", "2026-01-29-000000", "2026-01-30-000000", "2026-02-01-101500"),
        *("2026-99-99-999999", "2027-01-01-000000", "notes"),
    ]


def test_the_newest_and_the_needed_backups_stay(base: Path, store: BackupFiles) -> None:
    plant(base, {"a": b"1", "ro/b": b"2"})
    (base / "ro").chmod(0o500)
    names = [create(store, now=NOW + timedelta(days=n)).backup_id for n in range(5)]
    try:
        assert store.remove_old(2, needed=(names[0], "nonsense")) == RemovedBackups(
            (names[2], names[1]), (names[4], names[3], names[0])
        )
    finally:
        (base / "ro").chmod(0o700)
    assert [info.backup_id for info in store.backups()] == [names[4], names[3], names[0]]
    assert store.remove_old(0).kept == ()


def test_without_a_folder_there_are_no_backups(store: BackupFiles) -> None:
    assert store.backups() == ()
    assert store.remove_old(3) == RemovedBackups((), ())


@pytest.mark.skipif(ROOT, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_left(base: Path, store: BackupFiles) -> None:
    plant(base, {"a": b"1", "secret": b"2"})
    (base / "secret").chmod(0)
    with pytest.raises(UpgradeFailed, match=r"^'secret' cannot be read: Permission denied$"):
        create(store)
    assert os.listdir(base / ".backups") == [".gitignore"]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that answers EIO")
def test_a_file_that_the_disk_does_not_give_is_named(tmp_path: Path) -> None:
    with pytest.raises(UpgradeFailed) as refused:
        copy_file("a.md", "/proc/self/mem", tmp_path / "copy")
    assert (str(refused.value), refused.value.remediation) == (
        "'a.md' cannot be read: Input/output error",
        "the disk errs there: save what you can, and replace the file from elsewhere",
    )


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UpgradeFailed, match=r"^'file' cannot be read: Not a directory$"):
        walk(tmp_path / "file")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_name_that_is_no_text_is_refused(base: Path, store: BackupFiles, kind: str) -> None:
    if kind == "file":
        (Path(os.fsdecode(bytes(base) + b"/\xff.md"))).write_bytes(b"")
    else:
        os.symlink(b"\xff", bytes(base) + b"/link")
    with pytest.raises(UpgradeFailed, match="is not valid UTF-8"):
        create(store)
    assert os.listdir(base / ".backups") == [".gitignore"]


_TRIED = """
import os, sys
from pathlib import Path
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.layout import Layout
from tests.supervisor.upgrade.test_backup_store import create
base = Path(sys.argv[1])
try:
    create(BackupFiles(Layout(base.parent, base)))
except UpgradeFailed as refused:
    print(refused, refused.remediation, sep="; ")
"""


@pytest.mark.parametrize(
    ("kind", "what"), [("file", r"b'\xc3\xa9.md' has a name"), ("link", "the link 'link' has a target")]
)
def test_a_python_that_was_told_another_encoding_is_blamed_and_not_the_name(
    base: Path, kind: str, what: str
) -> None:
    if kind == "file":
        (base / "é.md").write_bytes(b"")
    else:
        (base / "link").symlink_to("é.md")
    told = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    tried = subprocess.run(
        [sys.executable, "-c", _TRIED, base], env={**os.environ, **told}, stdout=subprocess.PIPE, check=True
    )
    fault = "that is valid UTF-8, but Python was told to take names for ascii"
    remedy = "start mcpkeep with PYTHONUTF8=1, or with a locale such as LC_ALL=C.UTF-8"
    assert tried.stdout.decode() == f"{what} {fault}; {remedy}\n"


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "copy"
    source.write_bytes(b"old")
    edits = iter([b"longer than before", b"two"])

    class Editing(OsCalls):
        def create(self, path: Path) -> int:
            edit = next(edits, None)
            if edit is not None:
                source.write_bytes(edit)
            return super().create(path)

    copied = copy_file("a", source, target, calls=Editing())
    assert (copied, target.read_bytes()) == (entry(b"two"), b"two")


def test_a_file_that_never_rests_is_refused_by_name(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"")

    class Growing(OsCalls):
        def create(self, path: Path) -> int:
            with source.open("ab") as file:
                file.write(b"more")
            return super().create(path)

    with pytest.raises(UpgradeFailed, match=r"^'a' changed each of the 5 times it was read$"):
        copy_file("a", source, tmp_path / "copy", calls=Growing())
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_vanishes_or_turns_into_something_else_is_no_trap(tmp_path: Path) -> None:
    assert copy_file("gone", tmp_path / "gone", tmp_path / "copy") is None
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UpgradeFailed, match=r"^'fifo' is no longer a file$"):
        copy_file("fifo", tmp_path / "fifo", tmp_path / "copy")
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(UpgradeFailed, match=r"^'link' cannot be read"):
        copy_file("link", tmp_path / "link", tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]


class Unwanted(Exception):
    pass


@pytest.mark.parametrize("count", [30, 1_500])
def test_work_that_is_no_longer_wanted_ends_between_files_and_leaves_nothing(
    base: Path, store: BackupFiles, count: int
) -> None:
    plant(base, {f"standards/{n}": b"x" for n in range(count)})
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise Unwanted

    with pytest.raises(Unwanted):
        store.create("s", release=None, requirements="", now=NOW, check=check)
    assert os.listdir(base / ".backups") == [".gitignore"]
    assert calls == 10


def test_the_first_error_of_any_thread_ends_the_work() -> None:
    main = threading.get_ident()
    failing = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        if threading.get_ident() != main:
            failing.set()
            raise OSError(5, "a thread's")
        assert failing.wait(5)
        done.append(number)

    with pytest.raises(OSError, match="a thread's"):
        spread(work, range(1_000_000), check=unchecked, few=0)
    assert len(done) < 1_000_000


def test_a_failing_check_reads_nothing(base: Path, store: BackupFiles) -> None:
    def stop() -> NoReturn:
        raise Unwanted

    plant(base, {"a": b"1"})
    create(store)
    with pytest.raises(Unwanted):
        store.verify(ID, check=stop)
