"""Staging is a whole copy of the live installation that shares nothing with it, and whole where it is."""

import os
import stat
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import OsCalls
from mcpkeep.supervisor.upgrade import staging as staging_module
from mcpkeep.supervisor.upgrade.staging import copy_file_as_it_is, fill_staging, remove_staging, take_code
from tests.supervisor.upgrade.content_world import SESSION, ContentWorld, executable, link, plain, tree_of

LEFT_OUT = (
    ".cache/vector_index/data/1.lance",
    ".backups/2026-01-31-000000/MANIFEST.json",
    ".mcpkeep/logs/log",
    ".mcp_server_state.json",
    ".upgrade-lock",
    "venv/bin/python",
    "standards/.rebuild_index",
    "mcp_server/__pycache__/server.cpython-311.pyc",
    "workflows/.mcpkeep-3.tmp",
)


@pytest.fixture
def world(tmp_path: Path) -> ContentWorld:
    world = ContentWorld(tmp_path, ())
    world.put("standards/universal/ünï cöde & space.md", plain("a\n"))
    world.put("standards/development/mine.md", plain("b\r\n"))
    world.put("specs/review/one/empty.md", plain(""))
    world.put("workspace/scratch/read-only.md", plain("c\n"), bits=0o400)
    world.put("workflows/flow/run.sh", executable("#!/bin/sh\n"))
    world.put("workflows/outside", link("/etc/hostname"))
    world.put("workflows/folder-link", link("../../.."))
    world.put("workflows/dangling", link("nowhere"))
    world.put("mcp_server/server.py", plain("import state\n"))
    world.put("mcp_server/state/state.py", plain("1\n"))
    world.put("scripts/tool.py", executable("2\n"))
    world.put("scripts/picture.png", plain(b"\0\r\n\xff"))
    world.put("config.json", plain("{}\n"))
    (world.layout.base / "standards/empty folder").mkdir()
    return world


def test_the_copy_is_the_same_to_modes_links_and_nanoseconds(world: ContentWorld) -> None:
    expected = world.live()
    for path in LEFT_OUT:
        world.put(path, plain("not for staging"))
    os.mkfifo(world.layout.base / "workflows/pipe")
    before = world.live()
    fill_staging(world.layout, SESSION)
    staged = world.staged()
    # `mcp_server/__pycache__` and such leave no folder either.
    assert {path: staged.get(path) for path in expected} == expected
    assert {path.split("/")[0] for path in staged.keys() - expected.keys()} == set()
    assert world.live() == before


def test_the_copy_of_an_older_installation_goes_by_the_newest_name(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, (), base=".agent-os")
    world.put("config.json", plain("{}\n"))
    fill_staging(world.layout, SESSION)
    staged = world.layout.own / "staging" / SESSION / ".praxis-os"
    assert (staged / "config.json").read_text() == "{}\n"
    # Its settings may name the folder.
    assert os.readlink(staged.with_name(".agent-os")) == ".praxis-os"


def test_staging_has_the_names_that_lead_to_the_installation_and_no_other(tmp_path: Path) -> None:
    world = ContentWorld(tmp_path, ())
    staging = world.layout.staging(SESSION)
    older = world.layout.base.with_name(".agent-os")
    older.mkdir()
    fill_staging(world.layout, SESSION)
    assert os.listdir(staging) == [".praxis-os"]
    older.rmdir()
    older.symlink_to(".praxis-os")
    fill_staging(world.layout, SESSION)
    assert sorted(os.listdir(staging)) == [".agent-os", ".praxis-os"]


def test_writing_into_a_staged_file_does_not_reach_the_live_one(world: ContentWorld) -> None:
    before = world.live()
    fill_staging(world.layout, SESSION)
    for path, state in world.staged().items():
        if state[0] == "file":
            place = world.layout.staged(SESSION) / path
            place.chmod(0o600)
            with place.open("r+b") as file:
                file.write(b"written in place")
    assert world.live() == before


def test_a_read_only_folder_is_staged_so_that_it_can_be_written(world: ContentWorld) -> None:
    folder = world.layout.base / "workflows/flow"
    folder.chmod(0o555)
    try:
        fill_staging(world.layout, SESSION)
        assert world.live()["workflows/flow"] == ("folder", 0o555)
    finally:
        folder.chmod(0o755)
    assert world.staged()["workflows/flow"] == ("folder", 0o755)


def test_what_an_earlier_or_interrupted_filling_left_is_gone(world: ContentWorld) -> None:
    stagings = world.layout.staging(SESSION).parent
    for name in (SESSION, f"{SESSION}.filling", f"{SESSION}.gone"):
        (stagings / name / "old").mkdir(parents=True)
        (stagings / name / "old/left.md").write_text("left")
    fill_staging(world.layout, SESSION)
    assert [path.name for path in stagings.iterdir()] == [SESSION]
    assert world.staged() == world.live()


def test_removed_staging_leaves_nothing_and_others_alone(world: ContentWorld) -> None:
    fill_staging(world.layout, SESSION)
    fill_staging(world.layout, "another")
    (world.layout.staged(SESSION) / "workflows/flow").chmod(0o500)
    before = world.live()
    remove_staging(world.layout, SESSION)
    remove_staging(world.layout, SESSION)
    assert [path.name for path in world.layout.staging(SESSION).parent.iterdir()] == ["another"]
    assert world.live() == before
    remove_staging(world.layout, "another")
    assert not world.layout.stagings.exists()


def test_a_cancelled_filling_leaves_nothing(world: ContentWorld) -> None:
    class Cancelled(BaseException):
        pass

    def check() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        fill_staging(world.layout, SESSION, check=check)
    assert list(world.layout.staging(SESSION).parent.iterdir()) == []


def test_the_code_is_taken_out_of_staging_and_replaces_what_stood_there(
    world: ContentWorld, tmp_path: Path
) -> None:
    fill_staging(world.layout, SESSION)
    folder = tmp_path / "made" / "release"
    (folder / "mcp_server").mkdir(parents=True)
    (folder / "mcp_server/old.py").write_text("old")
    (folder / "release.json").write_text("stays")
    (world.layout.staged(SESSION) / "scripts/__pycache__").mkdir()
    (world.layout.staged(SESSION) / "scripts/__pycache__/tool.pyc").write_text("not taken")
    take_code(world.layout, SESSION, folder)
    assert (folder / "release.json").read_text() == "stays"
    (folder / "release.json").unlink()
    parts = ("mcp_server", "scripts")
    assert tree_of(folder) == {
        path: state for path, state in world.live().items() if path.split("/")[0] in parts
    }
    assert "mcp_server/state/state.py" in tree_of(folder)


class NoKernelCopies(OsCalls):
    """A file system, or a system, where the kernel copies nothing by itself."""

    def __init__(self, code: int | None) -> None:
        self._code = code

    def copy(self, source: int, fd: int, size: int) -> int:
        if self._code is None:
            return 0
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize("code", [None, *sorted(staging_module._NOT_IN_KERNEL)])  # pyright: ignore[reportPrivateUsage]
def test_where_the_kernel_cannot_copy_bytes_are_read_and_written(
    world: ContentWorld, code: int | None
) -> None:
    fill_staging(world.layout, SESSION, calls=NoKernelCopies(code))
    assert world.staged() == world.live()


def test_a_file_that_changes_while_it_is_copied_is_copied_again(tmp_path: Path) -> None:
    original, target = tmp_path / "source", tmp_path / "target"
    original.write_bytes(b"old")

    class Edited(OsCalls):
        edits = 1

        def copy(self, source: int, fd: int, size: int) -> int:
            copied = super().copy(source, fd, size)
            if self.edits:
                self.edits -= 1
                original.write_bytes(b"newer")
                os.utime(original, ns=(5, 5))
            return copied

    copy_file_as_it_is("source", original, target, calls=Edited())
    assert target.read_bytes() == b"newer"
    assert target.stat().st_mtime_ns == 5
    target.unlink()

    class Restless(OsCalls):
        edits = 0

        def copy(self, source: int, fd: int, size: int) -> int:
            self.edits += 1
            os.utime(original, ns=(self.edits, 1_000 + self.edits))
            return super().copy(source, fd, size)

    with pytest.raises(UpgradeFailed, match="'source' changed each of the 5 times it was read"):
        copy_file_as_it_is("source", original, target, calls=Restless())
    assert not target.exists()


def test_a_file_that_is_gone_or_no_file_any_more_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "pipe"):
        copy_file_as_it_is(name, tmp_path / name, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(UpgradeFailed, match="'link' cannot be read"):
        copy_file_as_it_is("link", tmp_path / "link", tmp_path / "target")


def test_nobody_else_may_read_what_is_staged_before_it_may_be_read_live(world: ContentWorld) -> None:
    seen: list[int] = []

    class Watching(OsCalls):
        def chmod(self, path: Path | int, mode: int) -> None:
            if isinstance(path, int):
                seen.append(stat.S_IMODE(os.fstat(path).st_mode))
            super().chmod(path, mode)

    fill_staging(world.layout, SESSION, calls=Watching())
    assert set(seen) == {0o600}
