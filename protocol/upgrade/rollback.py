"""The way back, decided: which changes are to be taken back, and what becomes of each file they touched."""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mcpkeep.protocol.upgrade.backup import BackupInfo
from mcpkeep.protocol.upgrade.change import ChangeOrder, ChangeRecord
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import BASES, OWN

__all__ = [
    "NoWayBack",
    "Return",
    "Span",
    "Target",
    "WayBack",
    "decide_return",
    "find_way_back",
    "order_restored",
    "resolve_target",
    "touched",
]


class NoWayBack(UpgradeFailed):
    """Nothing leads there, so nothing is begun; `details` has `known`, the ids that could be named."""


class Return(enum.Enum):
    """What going back does to one file."""

    NOTHING = "nothing"
    """It is as it was already, or no change of this way made a difference to it."""
    RESTORE = "restore"
    REMOVE = "remove"
    KEEP = "keep"
    """The user's stays, and takes nothing away: edited, where there was none before; or deleted."""
    MERGE = "merge"
    """Edited since: three ways, and where they overlap as ASIDE."""
    ASIDE = "aside"
    """The user's stays, and the restored version goes into conflicts/."""


def decide_return(base: str | None, ours: str | None, theirs: str | None) -> Return:
    """Decide for one file, by digests, None for absent.

    `base` is what was last installed, `ours` what stands there now, `theirs` what stood there at first.
    """
    if theirs in (ours, base):
        return Return.NOTHING
    if ours == base:
        return Return.REMOVE if theirs is None else Return.RESTORE
    if ours is None or theirs is None:
        return Return.KEEP
    return Return.ASIDE if base is None else Return.MERGE


class Span(NamedTuple):
    """A file's way through changes that followed on each other without an edit: digests, and whose bytes."""

    base: str | None
    base_session: str
    """Its change has the installed bytes, under new/."""
    theirs: str | None
    theirs_session: str
    """Its change has the former bytes, under old/."""


class WayBack(NamedTuple):
    """The changes that are to be taken back, oldest first; the release and the state they lead back to."""

    changes: tuple[ChangeRecord, ...]
    to_backup: bool = False
    """They are one, which was never made: from a backup's state to what is installed."""

    @property
    def release(self) -> str | None:
        return self.changes[0].from_release


def find_way_back(records: Sequence[ChangeRecord], to: str | None) -> WayBack:
    """The shortest way back to a release or backup by its id, or to what was before the last change.

    Raises:
        NoWayBack: there is none; it names what there is.
    """
    unbroken = _unbroken(records)
    for n in reversed(range(len(unbroken))):
        record = unbroken[n]
        if to is None or to in (record.from_release, record.backup_id):
            return WayBack(tuple(unbroken[n:]))
    known = [name for record in unbroken for name in (record.from_release, record.backup_id) if name]
    if not known:
        raise NoWayBack(
            "there is nothing to go back to: no upgrade was made here, or none is remembered",
            remediation="restore a backup: `mcpkeep backups` lists them",
            details={"known": []},
        )
    raise NoWayBack(
        f"there is no way back to {to!r}; there is one to {', '.join(map(repr, dict.fromkeys(known)))}",
        remediation="name one of these, a backup that `mcpkeep backups` lists, or none for the newest",
        details={"known": list(dict.fromkeys(known))},
    )


class Target(NamedTuple):
    """Where a rollback leads."""

    to: str | None
    """For find_way_back."""
    release: str
    backup_id: str | None
    """From which the release is rebuilt, where it must be."""
    merges: bool = False
    """No change leads there: what stands here is merged with the backup."""


def resolve_target(records: Sequence[ChangeRecord], backups: Sequence[BackupInfo], to: str | None) -> Target:
    """Where `to` leads by the changes; a backup that none of them knows leads to its release, and one whose
    release none leads to, or which is current, is merged with what stands here.

    Raises UpgradeFailed: there is no such way, or it leads to where one is.
    """
    current = records[-1].to_release if records else None
    named = next((backup for backup in backups if backup.complete and backup.backup_id == to), None)
    try:
        way = find_way_back(records, to)
    except NoWayBack:
        if named is None or named.release is None:
            raise
        merged = Target(to, named.release, named.backup_id, merges=True)
        to = named.release
        if to == current:
            return merged
        try:
            way = find_way_back(records, to)
        except NoWayBack:
            return merged
    if to == current:
        raise NoWayBack(
            f"release {current!r} is the current one already",
            remediation="name another release or backup, or none to go back by one change",
            details={"known": [way.release]},
        )
    if way.release is None:
        raise UpgradeFailed(
            "what stood here before was never made a release",
            remediation="restore its backup: `mcpkeep backups` lists them",
        )
    return Target(to, way.release, named.backup_id if named else way.changes[0].backup_id)


def order_restored(
    session_id: str,
    former: str | None,
    release: str,
    *,
    carried_over: Sequence[str] = (),
    left: Mapping[str, str],
    undoes: Sequence[str],
) -> ChangeOrder:
    """The switch to the release of a backup whose folders stand already: links, index and server.

    `left` are those of the files carried over that are the former release's and in the way, with their
    SHA-256.
    """
    return ChangeOrder(
        session_id=session_id,
        kind="rollback",
        from_release=former,
        to_release=release,
        staged_root=f"{OWN}/staging/{session_id}/{BASES[0]}",
        written=(),
        removed=tuple(sorted(left)),
        expected=dict(left),
        swap_index=former != release,
        undoes=tuple(undoes),
        kept=tuple(path for path in carried_over if path not in left),
    )


def touched(way: WayBack) -> Mapping[str, tuple[Span, ...]]:
    """Per path that a change of the way touched: what is to be gone back over, newest first.

    Changes between which the user edited the file stay apart: the edit must survive each.
    """
    files: dict[str, list[Span]] = {}
    for record in way.changes:
        for path, file in record.files.items():
            spans = files.setdefault(path, [])
            if spans and spans[0].base == file.old:
                spans[0] = spans[0]._replace(base=file.new, base_session=record.session_id)
            else:
                spans.insert(0, Span(file.new, record.session_id, file.old, record.session_id))
    return {path: tuple(spans) for path, spans in sorted(files.items())}


def _unbroken(records: Sequence[ChangeRecord]) -> list[ChangeRecord]:
    """The newest ones that follow on each other."""
    found: list[ChangeRecord] = []
    for record in reversed(records):
        if found and record.to_release != found[0].from_release:
            break
        found.insert(0, record)
    return found
