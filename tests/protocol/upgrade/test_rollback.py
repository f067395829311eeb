"""The way back: every case of a file, and which changes are gone back over."""

from datetime import UTC, datetime

import pytest

from mcpkeep.protocol.upgrade.backup import BackupInfo
from mcpkeep.protocol.upgrade.change import ChangedFile, ChangeOrder, ChangeRecord
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.rollback import (
    Return,
    Span,
    Target,
    WayBack,
    decide_return,
    find_way_back,
    order_restored,
    resolve_target,
    touched,
)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "act"),
    [
        # installed, now, at first
        ("new", "new", "old", Return.RESTORE),
        ("new", "new", None, Return.REMOVE),
        (None, None, "old", Return.RESTORE),
        ("new", "edit", "old", Return.MERGE),
        ("new", "edit", None, Return.KEEP),
        ("new", None, "old", Return.KEEP),
        (None, "edit", "old", Return.ASIDE),
        ("new", "old", "old", Return.NOTHING),
        ("new", None, None, Return.NOTHING),
        (None, "old", "old", Return.NOTHING),
        ("same", "edit", "same", Return.NOTHING),
        ("same", None, "same", Return.NOTHING),
        (None, "edit", None, Return.NOTHING),
        ("same", "same", "same", Return.NOTHING),
        (None, None, None, Return.NOTHING),
    ],
)
def test_each_case_of_a_file(base: str | None, ours: str | None, theirs: str | None, act: Return) -> None:
    assert decide_return(base, ours, theirs) is act


def change(
    session_id: str, old: str | None, new: str, files: dict[str, ChangedFile] | None = None
) -> ChangeRecord:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ChangeRecord(1, session_id, "upgrade", at, old, new, f"backup-{session_id}", True, files or {})


ONE, TWO, BACK = change("1", "a", "b"), change("2", "b", "c"), change("3", "c", "b")


@pytest.mark.parametrize(
    ("records", "to", "way"),
    [
        ((ONE, TWO), None, (TWO,)),
        ((ONE, TWO), "b", (TWO,)),
        ((ONE, TWO), "a", (ONE, TWO)),
        ((ONE, TWO), "backup-1", (ONE, TWO)),
        ((ONE, TWO, BACK), None, (BACK,)),
        ((ONE, TWO, BACK), "c", (BACK,)),
        ((ONE, TWO, BACK), "a", (ONE, TWO, BACK)),
    ],
)
def test_the_shortest_way_is_taken(
    records: tuple[ChangeRecord, ...], to: str | None, way: tuple[ChangeRecord, ...]
) -> None:
    assert find_way_back(records, to) == WayBack(way)


def test_what_there_is_no_way_to_is_refused_with_what_there_is() -> None:
    with pytest.raises(UpgradeFailed, match="no way back to 'x'; there is one to 'b', 'backup-2'"):
        find_way_back((change("1", "a", "z"), TWO), "x")
    with pytest.raises(UpgradeFailed, match="nothing to go back to"):
        find_way_back((), None)


def test_changes_join_where_nobody_edited_in_between_and_stay_apart_where_somebody_did() -> None:
    first = change("1", "a", "b", {"f": ChangedFile("f1", "f2"), "g": ChangedFile(None, "g2")})
    second = change("2", "b", "c", {"f": ChangedFile("f2", "f3"), "g": ChangedFile("edited", "g3")})
    assert touched(WayBack((first, second))) == {
        "f": (Span("f3", "2", "f1", "1"),),
        "g": (Span("g3", "2", "edited", "2"), Span("g2", "1", None, "1")),
    }


def backup(backup_id: str, release: str | None, *, complete: bool = True) -> BackupInfo:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return BackupInfo(backup_id, at, "s", release, 1, 1, complete)


OTHER = backup("other", "a")


@pytest.mark.parametrize(
    ("records", "to", "target"),
    [
        ((ONE, TWO), None, Target(None, "b", "backup-2")),
        ((ONE, TWO), "a", Target("a", "a", "backup-1")),
        ((ONE, TWO), "backup-1", Target("backup-1", "a", "backup-1")),
        ((ONE, TWO), "other", Target("a", "a", "other")),
        ((TWO,), "other", Target("other", "a", "other", merges=True)),
        ((), "other", Target("other", "a", "other", merges=True)),
        ((change("1", "b", "a"),), "other", Target("other", "a", "other", merges=True)),
        ((ONE, change("2", "b", "a")), "other", Target("other", "a", "other", merges=True)),
        ((ONE, TWO, BACK), None, Target(None, "c", "backup-3")),
    ],
)
def test_a_target_is_a_release_or_backup_that_the_changes_lead_to_or_a_backup_that_is_merged(
    records: tuple[ChangeRecord, ...], to: str | None, target: Target
) -> None:
    assert resolve_target(records, (OTHER, backup("torn", "a", complete=False)), to) == target


@pytest.mark.parametrize(
    ("records", "to", "told"),
    [
        ((), None, "there is nothing to go back to"),
        ((), "torn", "there is nothing to go back to"),
        ((ONE, TWO), "nowhere", "there is no way back to 'nowhere'"),
        ((ONE, TWO), "torn", "there is no way back to 'torn'"),
        ((ONE, TWO), "nameless", "there is no way back to 'nameless'"),
        ((ONE, TWO, BACK), "b", "release 'b' is the current one already"),
        ((change("1", None, "a"),), None, "was never made a release"),
    ],
)
def test_where_there_is_no_way_it_is_refused_with_what_to_do(
    records: tuple[ChangeRecord, ...], to: str | None, told: str
) -> None:
    backups = (OTHER, backup("torn", "a", complete=False), backup("nameless", None))
    with pytest.raises(UpgradeFailed, match=told) as refused:
        resolve_target(records, backups, to)
    assert refused.value.remediation


def test_after_folders_were_restored_links_index_and_what_is_in_the_way_are_switched() -> None:
    order = order_restored("r", "b", "a", left={"z.md": "2", "y.md": "1"}, undoes=["1"])
    assert order == ChangeOrder(
        session_id="r",
        kind="rollback",
        from_release="b",
        to_release="a",
        staged_root=".mcpkeep/staging/r/.praxis-os",
        written=(),
        removed=("y.md", "z.md"),
        expected={"y.md": "1", "z.md": "2"},
        swap_index=True,
        undoes=("1",),
    )
    assert not order_restored("r", "a", "a", left={}, undoes=()).swap_index
