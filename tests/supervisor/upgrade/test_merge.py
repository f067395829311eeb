"""Texts are merged by lines and JSON by key; overlaps, binary files and markers are never a result."""

import json
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.line_endings import LineEndings, line_endings, normalised
from mcpkeep.protocol.upgrade.markers import has_conflict_markers
from mcpkeep.supervisor.upgrade.merge import MERGE_LIMIT, merge_bytes

LINES = [b"a", b"b", b"c", b"d", b"", b"<<<<<<< x", b"=======", b">>>>>>> x", b"|||||||", "ü".encode()]
ENDS = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.sampled_from(LINES), max_size=8))
    end = draw(ENDS)
    return end.join(lines) + (end if draw(st.booleans()) else b"")


@settings(max_examples=60, deadline=None)
@given(texts(), texts(), texts())
def test_no_merge_brings_in_markers_and_sides_conflict_either_way(
    base: bytes, ours: bytes, theirs: bytes
) -> None:
    assert merge_bytes(base, base, theirs, path="a.md") == theirs
    assert merge_bytes(base, ours, base, path="a.md") == ours
    assert merge_bytes(base, theirs, theirs, path="a.md") == theirs
    one, other = merge_bytes(base, ours, theirs, path="a.md"), merge_bytes(base, theirs, ours, path="a.md")
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    assert normalised(one) == normalised(other)
    assert one in (ours, theirs) or not has_conflict_markers(one)
    if line_endings(ours) in (LineEndings.LF, LineEndings.CRLF) and line_endings(one) is not LineEndings.NONE:
        assert one == theirs or line_endings(one) is line_endings(ours)


NUMBERED = st.lists(st.sampled_from(["keep", "ours", "theirs"]), min_size=2, max_size=12)


@settings(max_examples=40, deadline=None)
@given(NUMBERED, ENDS)
def test_changes_to_lines_apart_all_arrive(who: list[str], end: bytes) -> None:
    def text(*changes: str) -> bytes:
        # Three lines that nobody touches stand between any two that somebody may.
        lines = [
            f"{n}{' ' + side if side in changes else ''}\n.{n}\n:{n}\n!{n}\n" for n, side in enumerate(who)
        ]
        return "".join(lines).encode()

    ours = text("ours").replace(b"\n", end)
    merged = merge_bytes(text(), ours, text("theirs"), path="a.md")
    expected = text("ours", "theirs")
    assert merged is not None
    assert normalised(merged) == expected


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        (b"1\n2\n3\n4\n5\n", b"1!\n2\n3\n4\n5\n", b"1\n2\n3\n4\n5!\n", b"1!\n2\n3\n4\n5!\n"),
        (b"1\n2\n3\n4\n", b"1!\r\n2\r\n3\r\n4\r\n", b"1\n2\n3\n4!\n", b"1!\r\n2\r\n3\r\n4!\r\n"),
        (b"1\r\n2\r\n3\r\n", b"1!\n2\n3\n", b"1\r\n2\r\n3!\r\n", b"1!\n2\n3!\n"),
        (b"1\n2\n3\n", b"1\r\n2\n3\n", b"1\n2\n3!\n", b"1\r\n2\n3!\n"),
        (b"1\n2\n3", b"1!\n2\n3", b"1\n2\n3!", b"1!\n2\n3!"),
        (b"1\n2\n", b"1\r\n2\r\n", b"1\n2\n3\n", b"1\r\n2\r\n3\r\n"),
        (b"1\n", b"1\r\n", b"1", b"1"),
        (b"\xff1\n2\n3\n", b"\xff1!\n2\n3\n", b"\xff1\n2\n3!\n", b"\xff1!\n2\n3!\n"),
    ],
)
def test_the_users_line_endings_and_bytes_stay(
    base: bytes, ours: bytes, theirs: bytes, merged: bytes
) -> None:
    assert merge_bytes(base, ours, theirs, path="a.md") == merged


MARKED = b"how a conflict looks:\n<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n1\n2\n3\n4\n"


@pytest.mark.parametrize(
    ("base", "ours", "theirs"),
    [
        (b"1\n", b"2\n", b"3\n"),
        (b"", b"2\n", b"3\n"),
        (b"1\n2\n", b"1!\n2\n", b"2\n"),
        (b"1\0\n2\n3\n", b"1!\0\n2\n3\n", b"1\0\n2\n3!\n"),
        (b"1\n2\n3\n" + b"\0", b"1!\n2\n3\n" + b"\0", b"1\n2\n3!\n" + b"\0"),
        (b"1\n2\n3\n", b"1!\n2\n3\n", b"1\n2\n3\n" + b"x" * MERGE_LIMIT),
        (MARKED, MARKED.replace(b"how", b"How"), MARKED.replace(b"4", b"5")),
    ],
    ids=["both", "added", "removed", "binary", "binary at the end", "huge", "markers"],
)
def test_what_overlaps_is_no_text_or_has_markers_is_a_conflict(
    base: bytes, ours: bytes, theirs: bytes
) -> None:
    assert merge_bytes(base, ours, theirs, path="a.md") is None


def test_markers_that_one_side_alone_has_stay_in_its_text() -> None:
    assert merge_bytes(b"1\n", b"1\n", MARKED, path="a.md") == MARKED
    assert merge_bytes(b"1\n", MARKED, b"1\r\n", path="a.md") == MARKED


def test_json_is_merged_by_key_in_the_users_endings() -> None:
    base = json.dumps({"a": 1, "b": 2}, indent=2).encode()
    ours = json.dumps({"a": 9, "b": 2}, indent=2).replace("\n", "\r\n").encode()
    theirs = json.dumps({"a": 1, "b": 3, "c": 4}, indent=2).encode()
    expected = json.dumps({"a": 9, "b": 3, "c": 4}, indent=2).replace("\n", "\r\n").encode()
    assert merge_bytes(base, ours, theirs, path="x/y.json") == expected
    # By lines these would overlap, and as JSON they do not.
    assert merge_bytes(base, ours, theirs, path="x/y.md") is None


def test_what_is_called_json_and_is_none_is_merged_by_lines() -> None:
    base = b'// settings\n{"a": 1,\n"x": 0,\n"b": 2}\n'
    ours, theirs = base.replace(b"1", b"9"), base.replace(b"2", b"3")
    assert merge_bytes(base, ours, theirs, path="a.json") == base.replace(b"1", b"9").replace(b"2", b"3")
    assert (
        merge_bytes(b"\xff\n1\n2\n", b"\xff!\n1\n2\n", b"\xff\n1\n2!\n", path="a.json") == b"\xff!\n1\n2!\n"
    )


def test_settings_of_the_users_git_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file = tmp_path / "gitconfig"
    settings_file.write_text("[merge]\nconflictstyle = zdiff3\n[core]\nautocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings_file))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(settings_file.read_text())
    assert merge_bytes(b"1\n2\n3\n", b"1!\n2\n3\n", b"1\n2\n3!\n", path="a") == b"1!\n2\n3!\n"
    assert merge_bytes(b"1\n", b"2\n", b"3\n", path="a") is None


def test_no_room_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UpgradeFailed, match="temporary files cannot be written"):
        merge_bytes(b"1\n2\n3\n", b"1!\n2\n3\n", b"1\n2\n3!\n", path="a")


def test_the_file_that_git_writes_is_what_comes_back(tmp_path: Path) -> None:
    """The same merge by git's own command, as a check on how it is called."""
    sides = {"base": b"1\n2\n3\n4\n", "ours": b"0\n1\n2\n3\n4\n", "theirs": b"1\n2\n3\n5\n"}
    for name, data in sides.items():
        (tmp_path / name).write_bytes(data)
    subprocess.run(["git", "merge-file", "ours", "base", "theirs"], cwd=tmp_path, check=True)
    assert merge_bytes(**sides, path="a") == (tmp_path / "ours").read_bytes()
