"""Journals on disk: what a torn end, a damaged middle, a full disk and a hostile name come to."""

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Done, Ended, Intent, JournalState
from mcpkeep.supervisor.upgrade.journal import JournalFiles, ThreadedJournals
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.pending import anything_pending
from tests.faults import Faults

AT = datetime(2026, 1, 31, tzinfo=UTC)
BEGUN = Begun("s", "upgrade", False, "test", AT)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / ".praxis-os").mkdir()
    return Layout(tmp_path, tmp_path / ".praxis-os")


@pytest.mark.anyio
async def test_what_was_appended_is_read_and_open_until_it_ends(layout: Layout) -> None:
    journals = ThreadedJournals(JournalFiles(layout))
    assert await journals.read("s") is None
    await journals.begin(BEGUN)
    await journals.append("s", Intent("g", ()))
    await journals.append("s", Done("g"))
    state = JournalState(BEGUN, {}, {"g": Intent("g", ())}, ("g",))
    assert await journals.read("s") == state
    assert await journals.open() == (state,)
    with pytest.raises(UpgradeFailed, match="has a journal already"):
        await journals.begin(BEGUN)
    assert anything_pending(str(layout.workspace))
    await journals.append("s", Ended("completed", AT))
    assert await journals.open() == ()
    assert not anything_pending(str(layout.workspace))


def test_a_torn_last_line_is_nobodys_word_and_the_next_record_follows_what_is_whole(layout: Layout) -> None:
    journals = JournalFiles(layout)
    journals.begin(BEGUN)
    path = layout.journals / "s.jsonl"
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"type":"ended","outc')
    assert journals.read("s") == JournalState(BEGUN)
    assert anything_pending(str(layout.workspace))
    journals.append("s", Done("g"))
    assert path.read_bytes() == whole + b'{"type":"done","group":"g"}\n'


def test_one_that_had_ended_is_read_again_where_it_is_another_by_now(layout: Layout) -> None:
    journals = JournalFiles(layout)
    journals.begin(BEGUN)
    journals.append("s", Ended("completed", AT))
    assert journals.open() == journals.open() == ()
    path = layout.journals / "s.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n")
    assert journals.open() == (JournalState(BEGUN),)


def test_a_damaged_line_is_named(layout: Layout) -> None:
    journals = JournalFiles(layout)
    journals.begin(BEGUN)
    path = layout.journals / "s.jsonl"
    path.write_bytes(path.read_bytes() + b"\xff\n" + b'{"type":"done","group":"g"}\n')
    for work in (journals.open, lambda: journals.read("s")):
        with pytest.raises(UpgradeFailed, match=r"s\.jsonl' is damaged at line 2") as failure:
            work()
        assert failure.value.details == {"path": str(path), "line": 2}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\0b", "-a", "é", "a" * 101, "a.b"])
def test_a_name_that_could_lead_elsewhere_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(UpgradeFailed, match="is no session id"):
        JournalFiles(layout).append(name, Done("g"))


@pytest.mark.parametrize("n", range(3))
def test_a_failed_append_is_answered_and_the_next_one_writes_all_anew(layout: Layout, n: int) -> None:
    JournalFiles(layout).begin(BEGUN)
    journals = JournalFiles(layout, calls=Faults(n, errno.ENOSPC))
    with pytest.raises(UpgradeFailed, match="cannot be read or written: No space left"):
        journals.append("s", Intent("g", ()))
    inode = (layout.journals / "s.jsonl").stat().st_ino
    journals.append("s", Done("h"))
    assert (layout.journals / "s.jsonl").stat().st_ino != inode
    state = journals.read("s")
    assert state is not None
    assert state.done == ()


def test_a_workspace_without_any_upgrade_has_nothing_pending(tmp_path: Path) -> None:
    assert not anything_pending(str(tmp_path))


@pytest.mark.parametrize("left", [".upgrade-lock", ".mcpkeep/staging/s"])
def test_a_lock_or_staging_that_was_left_is_pending(layout: Layout, left: str) -> None:
    layout.journals.mkdir(parents=True)
    assert not anything_pending(str(layout.workspace))
    (layout.base / left).mkdir(parents=True)
    assert anything_pending(str(layout.workspace))


def test_a_lock_from_before_the_first_journal_is_pending(tmp_path: Path) -> None:
    (tmp_path / ".praxis-os").mkdir()
    (tmp_path / ".praxis-os" / ".upgrade-lock").touch()
    assert anything_pending(str(tmp_path))
