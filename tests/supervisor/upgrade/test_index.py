"""The vector index on real files: carried, compared, dated, synced, and thrown away where it is of no use."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcpkeep.supervisor.upgrade import index as index_module
from mcpkeep.supervisor.upgrade.index import (
    Lack,
    carry_index,
    drop_index,
    filled_at,
    is_current,
    lack_of,
    stamp_build_time,
    unindexed,
)
from mcpkeep.supervisor.upgrade.layout import Layout

BUILT = datetime(2026, 1, 1, 12, 0, 0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An installation with two standards, both older than its index."""
    base = tmp_path / ".praxis-os"
    for name in ("standards/a.md", "standards/deep/b ü.md"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
        os.utime(base / name, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    (base / "standards/notes.txt").write_text("not indexed")
    return base


def at(base: Path) -> Layout:
    return Layout(base.parent, base)


def make(base: Path, **changes: Any) -> Path:
    index = base / ".cache/vector_index"
    (index / "t.lance/data").mkdir(parents=True)
    (index / "t.lance/data/1").write_bytes(b"vectors")
    os.utime(index / "t.lance/data/1", ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_001))
    known = {str(p.relative_to(base)): p.stat().st_mtime for p in (base / "standards").rglob("*.md")}
    told = {"build_time": BUILT.isoformat(), "total_chunks": 2, "files_mtimes": known, **changes}
    (index / "metadata.json").write_text(json.dumps(told))
    return index


def listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_an_index_is_carried_whole_with_its_mtimes_in_place_of_what_was_there(
    base: Path, tmp_path: Path
) -> None:
    live = make(base)
    staged = tmp_path / "staged"
    (staged / ".cache/vector_index").mkdir(parents=True)
    (staged / ".cache/vector_index/left over").write_text("x")
    assert carry_index(at(base), at(staged))
    assert listing(staged / ".cache/vector_index") == listing(live)
    # A server that writes in place must not reach the live one through a link.
    (staged / ".cache/vector_index/t.lance/data/1").write_bytes(b"other")
    assert (live / "t.lance/data/1").read_bytes() == b"vectors"


@pytest.mark.parametrize("state", ["absent", "unfinished"])
def test_what_is_no_finished_index_is_not_carried(base: Path, tmp_path: Path, state: str) -> None:
    if state == "unfinished":
        (make(base) / "metadata.json").unlink()
    assert not carry_index(at(base), at(tmp_path / "staged"))
    assert not (tmp_path / "staged").exists()


def test_an_index_that_changes_while_it_is_copied_is_copied_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make(base)
    copies = 0

    def copytree(source: Path, target: Path, *, symlinks: bool) -> Path:
        nonlocal copies
        copies += 1
        copied: Path = shutil.copytree(source, target, symlinks=symlinks)
        if copies == 1:
            (live / "t.lance/data/2").write_bytes(b"more")
        return copied

    monkeypatch.setattr(index_module, "copytree", copytree)
    assert carry_index(at(base), at(tmp_path / "staged"))
    assert copies == 2
    assert listing(tmp_path / "staged/.cache/vector_index") == listing(live)


def test_an_index_that_never_holds_still_is_not_carried(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make(base)
    copies = 0

    def copytree(source: Path, target: Path, *, symlinks: bool) -> Path:
        nonlocal copies
        copies += 1
        (live / f"t.lance/data/more{copies}").write_bytes(b"more")
        copied: Path = shutil.copytree(source, target, symlinks=symlinks)
        return copied

    monkeypatch.setattr(index_module, "copytree", copytree)
    assert not carry_index(at(base), at(tmp_path / "staged"))
    assert copies == 3
    assert not (tmp_path / "staged/.cache/vector_index").exists()


def test_an_index_that_covers_the_content_lacks_nothing(base: Path) -> None:
    make(base)
    assert lack_of(at(base)) == Lack((), ())
    assert is_current(at(base))


def test_edited_added_and_removed_standards_are_lacking(base: Path) -> None:
    make(base)
    os.utime(base / "standards/a.md")
    (base / "standards/new.md").write_text("new")
    (base / "standards/deep/b ü.md").unlink()
    assert lack_of(at(base)) == Lack(("standards/a.md", "standards/new.md"), ("standards/deep/b ü.md",))
    assert not is_current(at(base))


def test_other_folders_count_where_the_index_knows_them(base: Path) -> None:
    (base / "usage").mkdir()
    (base / "usage/u.md").write_text("u")
    known = {str(p.relative_to(base)): p.stat().st_mtime for p in base.rglob("*.md") if p.name != "u.md"}
    make(base, files_mtimes=known)
    assert is_current(at(base))
    drop_index(base / ".cache/vector_index")
    make(base, files_mtimes=known | {"usage/gone.md": 1.0})
    assert lack_of(at(base)) == Lack(("usage/u.md",), ("usage/gone.md",))


def test_an_older_index_without_mtimes_is_judged_by_its_date(base: Path) -> None:
    make(base, files_mtimes=None)
    assert is_current(at(base))
    os.utime(base / "standards/a.md", (BUILT.timestamp() + 1, BUILT.timestamp() + 1))
    assert lack_of(at(base)) == Lack(("standards/a.md",), ())


@pytest.mark.parametrize("build_time", [None, 5, "yesterday"])
def test_an_older_index_without_a_date_lacks_everything(base: Path, build_time: object) -> None:
    make(base, files_mtimes=None, build_time=build_time)
    assert lack_of(at(base)) == Lack(("standards/a.md", "standards/deep/b ü.md"), ())


@pytest.mark.parametrize("metadata", [None, b"", b"[]", b"{"])
def test_without_readable_metadata_there_is_no_index(base: Path, metadata: bytes | None) -> None:
    index = make(base)
    (index / "metadata.json").unlink()
    if metadata is not None:
        (index / "metadata.json").write_bytes(metadata)
    assert lack_of(at(base)) is None
    assert not is_current(at(base))


def test_what_was_edited_since_it_was_staged_is_not_indexed_there(base: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    shutil.copytree(base, staged)
    assert unindexed(base, staged, besides=set()) == ()
    os.utime(base / "standards/a.md", ns=(1, 1_700_000_001_000_000_000))
    (base / "standards/new.md").write_text("new")
    (base / "standards/deep/b ü.md").unlink()
    (base / "standards/notes.txt").write_text("never indexed")
    changed = ("standards/a.md", "standards/deep/b ü.md", "standards/new.md")
    assert unindexed(base, staged, besides={None}) == changed
    assert unindexed(base, staged, besides={"standards/a.md"}) == changed[1:]


def test_dropping_a_link_leaves_what_it_points_at(base: Path, tmp_path: Path) -> None:
    index = make(base)
    index.rename(tmp_path / "elsewhere")
    index.symlink_to(tmp_path / "elsewhere")
    drop_index(index)
    assert not index.is_symlink()
    assert (tmp_path / "elsewhere/metadata.json").exists()
    drop_index(index)


def test_staging_was_filled_after_the_moment_that_is_said(base: Path) -> None:
    first = min((base / name).stat().st_ctime for name in ("standards/a.md", "standards/deep/b ü.md"))
    assert filled_at(base).timestamp() == pytest.approx(first - 1, abs=1e-5)


def test_staging_without_standards_was_filled_when_it_was_made(base: Path) -> None:
    for path in base.rglob("*.md"):
        path.unlink()
    assert filled_at(base).timestamp() == pytest.approx(base.stat().st_ctime - 1, abs=1e-5)


def test_the_date_is_set_and_all_else_of_the_metadata_stays(base: Path) -> None:
    index = make(base)
    (index / "metadata.json").chmod(0o644)
    before = json.loads((index / "metadata.json").read_text())
    stamp_build_time(at(base), datetime(2025, 5, 5, 5, 5, 5, 5))
    assert json.loads((index / "metadata.json").read_text()) == {
        **before,
        "build_time": "2025-05-05T05:05:05.000005",
    }
    assert (index / "metadata.json").stat().st_mode & 0o777 == 0o644


def test_an_older_index_is_dated_no_earlier_than_the_newest_standard(base: Path) -> None:
    make(base, files_mtimes=None)
    for name, mtime in (("a.md", 1_800_000_000_123_456_789), ("deep/b ü.md", 1_800_000_000_999_999_999)):
        os.utime(base / "standards" / name, ns=(mtime, mtime))
    assert not is_current(at(base))
    stamp_build_time(at(base), datetime.fromtimestamp(1_700_000_000))
    assert is_current(at(base))
    stamp_build_time(at(base), datetime.fromtimestamp(1_900_000_000))
    assert lack_of(at(base)) == Lack((), ())


def test_a_date_with_a_zone_keeps_its_zone(base: Path) -> None:
    index = make(base, build_time="2026-01-01T00:00:00+00:00")
    moment = datetime(2025, 5, 5, 5, 5, 5)
    stamp_build_time(at(base), moment)
    said = json.loads((index / "metadata.json").read_text())["build_time"]
    assert said.endswith("+00:00")
    assert datetime.fromisoformat(said) == moment.astimezone(UTC)


def test_an_index_without_metadata_is_not_dated(base: Path) -> None:
    stamp_build_time(at(base), BUILT)
    assert not (base / ".cache").exists()
