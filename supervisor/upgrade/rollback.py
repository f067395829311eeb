"""Stages the way back from one release to an earlier one, so that it is committed like any other change."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder, RollbackPlan, comes_first
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.rollback import (
    NoWayBack,
    Return,
    Span,
    WayBack,
    decide_return,
    find_way_back,
    order_restored,
    resolve_target,
    touched,
)
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.backup_way import installed_file, way_to_backup
from mcpkeep.supervisor.upgrade.baseline import BASELINE
from mcpkeep.supervisor.upgrade.change_failure import as_failure
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.journal import require_session_id
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import copy_file, digest, make_missing, read_bytes
from mcpkeep.supervisor.upgrade.merge import merge_bytes
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.spares import find_spare
from mcpkeep.supervisor.upgrade.steps import sync_folders

__all__ = ["plan_first", "plan_rest", "plan_restored", "plan_rollback"]

_FAILED = "the way back cannot be staged"


class _Outcome(NamedTuple):
    """What becomes of one file: `source` is the file that has its bytes, or the bytes themselves."""

    act: Return
    source: Path | bytes | None = None
    aside: Path | None = None


def plan_rollback(
    changes: ChangeFiles, session_id: str, to: str | None, *, calls: FileCalls = OS_CALLS
) -> RollbackPlan:
    """Stage the way back in staging/<session>/; nothing live is touched. May be called again.

    Raises UpgradeFailed as plan_first() and plan_rest().
    """
    return plan_rest(changes, plan_first(changes, session_id, to, calls=calls), to, calls=calls)


def plan_first(
    changes: ChangeFiles, session_id: str, to: str | None, *, calls: FileCalls = OS_CALLS
) -> RollbackPlan:
    """The same for what comes first.

    Raises:
        UpgradeFailed: there is no such way, its release must be rebuilt (`details` has `rebuild` and
            `backup_id`), or a file cannot be read or written.
    """
    require_session_id(session_id)
    way = _find_way(changes, to)
    with as_failure(_FAILED):
        return _add_files(changes, way, _begin(changes, session_id, way, calls), calls, first=True)


def plan_rest(
    changes: ChangeFiles, first: RollbackPlan, to: str | None, *, calls: FileCalls = OS_CALLS
) -> RollbackPlan:
    """The whole plan, of which `first` is what comes first; that may be in place by now.

    Raises UpgradeFailed: a file cannot be read or written.
    """
    way = _find_way(changes, to)
    with as_failure(_FAILED):
        return _add_files(changes, way, first, calls, first=False)


def _find_way(changes: ChangeFiles, to: str | None) -> WayBack:
    records = changes.made.records()
    try:
        return find_way_back(records, to)
    except NoWayBack:
        target = resolve_target(records, BackupFiles(changes.layout).backups(), to)
        if target.merges:
            return way_to_backup(changes.layout, target.backup_id or "")
        return find_way_back(records, target.to)


def plan_restored(
    changes: ChangeFiles, session_id: str, release: str, carried_over: Sequence[str]
) -> ChangeOrder:
    """After folders were restored from a backup: the switch to its release. Raises UpgradeFailed.

    Of the files that were carried over, those that an upgrade brought and nobody edited go. Changes that
    cannot be read are forgotten.
    """
    at = changes.layout
    former = at.current_release()
    installed: dict[str, str | None] = {}
    with contextlib.suppress(UpgradeFailed):
        server = changes.require_release(former or "").server_files
        installed.update((f"mcp_server/{path}", sha) for path, sha in server.items())
    try:
        records = changes.made.records()
    except UpgradeFailed:
        records = ()
        changes.made.forget()
    for record in records:
        installed.update((path, file.new) for path, file in record.files.items())
    left: dict[str, str] = {}
    for path in carried_over:
        sha = installed.get(path)
        if sha is not None and digest(at.base / path) == sha:
            left[path] = sha
    undoes = [record.session_id for record in records]
    return order_restored(session_id, former, release, carried_over=carried_over, left=left, undoes=undoes)


def _begin(changes: ChangeFiles, session_id: str, way: WayBack, calls: FileCalls) -> RollbackPlan:
    """Make the staging folder; the plan without any file."""
    at = changes.layout
    backup_id = way.changes[0].backup_id
    if way.release is None:
        raise UpgradeFailed(
            "what stood here before was never made a release",
            remediation="it must be rebuilt from the backup and its requirements-snapshot.txt",
            details={"rebuild": True, "release": None, "backup_id": backup_id},
        )
    changes.require_release(way.release, backup_id=backup_id)
    staged = at.staged(session_id)
    remove_tree(at.staging(session_id), calls=calls)
    make_missing(staged, calls=calls, synced=False)
    undoes = [record.session_id for record in way.changes]
    if way.to_backup:
        taken = way.changes[0].at
        undoes = [record.session_id for record in changes.made.records() if record.at > taken]
        if way.release != way.changes[-1].to_release:
            # Which it was is not known. What says so is read after the commit, a power loss later, too.
            baseline = at.staging(session_id) / BASELINE
            sync_folders(make_missing(baseline, calls=calls) | {*baseline.parents[1:3]}, calls=calls)
    order = ChangeOrder(
        session_id=session_id,
        kind="rollback",
        from_release=way.changes[-1].to_release,
        to_release=way.release,
        staged_root=staged.relative_to(at.base).as_posix(),
        written=(),
        removed=(),
        expected={},
        swap_index=any(record.swapped_index for record in way.changes),
        undoes=tuple(undoes),
    )
    return RollbackPlan(order, (), (), (), {})


def _add_files(
    changes: ChangeFiles, way: WayBack, plan: RollbackPlan, calls: FileCalls, *, first: bool
) -> RollbackPlan:
    """Stage the files that come first, or all others; the plan with them."""
    at, order = changes.layout, plan.order
    staged, conflicts = at.staged(order.session_id), at.conflicts(order.session_id)
    by_path: dict[Return, list[str]] = {act: [] for act in Return}
    expected = dict(order.expected)
    aside = dict(plan.kept_aside)
    sources = dict(order.sources)
    spares = dict(order.spares)
    folders: set[Path] = set()
    for path, spans in touched(way).items():
        if comes_first(path) is not first:
            continue
        stands = digest(at.base / path)
        outcome = _decide(at, way, path, spans, stands)
        by_path[outcome.act].append(path)
        if outcome.act in (Return.RESTORE, Return.MERGE, Return.REMOVE):
            expected[path] = stands
        if isinstance(outcome.source, bytes):
            # What is staged is brought to the disk as any change's is, when it is prepared.
            _write(outcome.source, staged / path, like=at.base / path, calls=calls)
        elif outcome.source is not None:
            sources[path] = outcome.source.relative_to(at.base).as_posix()
            if spare := find_spare(at.changes, outcome.source):
                spares[path] = spare.relative_to(at.base).as_posix()
        if outcome.aside is not None:
            make_missing((conflicts / path).parent, calls=calls)
            with contextlib.suppress(FileNotFoundError):
                calls.unlink(conflicts / path)
            copy_file(outcome.aside, conflicts / path, calls=calls)
            folders.add((conflicts / path).parent)
            aside[path] = (conflicts / path).relative_to(at.base).as_posix()
    sync_folders(folders, calls=calls)
    merged = _with(plan.merged, by_path[Return.MERGE])
    kept = _with(plan.kept, by_path[Return.KEEP] + by_path[Return.ASIDE])
    order = msgspec.structs.replace(
        order,
        written=_with(order.written, by_path[Return.RESTORE] + by_path[Return.MERGE]),
        removed=_with(order.removed, by_path[Return.REMOVE]),
        expected=expected,
        merged=merged,
        kept=kept,
        sources=sources,
        spares=spares,
    )
    restored = _with(plan.restored, by_path[Return.RESTORE] + by_path[Return.REMOVE])
    return RollbackPlan(order, restored, merged, kept, aside)


def _with(paths: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted((*paths, *more)))


def _decide(at: Layout, way: WayBack, path: str, spans: tuple[Span, ...], ours: str | None) -> _Outcome:
    """Go back over the changes of one file, newest first, each from what the one before it came to."""
    outcome = _Outcome(Return.NOTHING, at.base / path)
    for span in spans:
        act = decide_return(span.base, ours, span.theirs)
        if act is Return.NOTHING:
            continue
        if act is Return.KEEP:
            return outcome if outcome.act is not Return.NOTHING else _Outcome(Return.KEEP)
        if act is Return.REMOVE:
            outcome, ours = _Outcome(Return.REMOVE), None
            continue
        theirs = _former(at, way, path, span)
        if act is Return.RESTORE:
            outcome, ours = _Outcome(Return.RESTORE, theirs), span.theirs
            continue
        merged: bytes | None = None
        if act is Return.MERGE:
            base = at.change(span.base_session) / "new" / path
            if way.to_backup:
                base = installed_file(at, path)
            assert outcome.source is not None
            merged = _merge(base, outcome.source, theirs, path)
        if merged is None:
            stopped = outcome if outcome.act is not Return.NOTHING else _Outcome(Return.ASIDE)
            return stopped._replace(aside=theirs)
        outcome, ours = _Outcome(Return.MERGE, merged), hashlib.sha256(merged).hexdigest()
    return outcome if outcome.act is not Return.NOTHING else _Outcome(Return.NOTHING)


def _merge(base: Path, ours: Path | bytes, theirs: Path, path: str) -> bytes | None:
    """None where they overlap, or where one of them is a symbolic link, which has no lines."""
    if any(isinstance(place, Path) and not _is_file(place) for place in (base, ours, theirs)):
        return None
    mine = ours if isinstance(ours, bytes) else read_bytes(ours)
    return merge_bytes(read_bytes(base), mine, read_bytes(theirs), path=path)


def _former(at: Layout, way: WayBack, path: str, span: Span) -> Path:
    """The file with the former bytes: the old inode, or the backup's copy where that was lost."""
    old = at.change(span.theirs_session) / "old" / path
    if os.path.lexists(old):
        return old
    backups = (r.backup_id for r in way.changes if r.session_id == span.theirs_session)
    for backup_id in backups:
        copy = at.backups / (backup_id or "") / path
        if backup_id and digest(copy) == span.theirs:
            return copy
    raise UpgradeFailed(
        f"the former {path!r} is neither in {str(old)!r} nor in a backup",
        remediation="restore an older backup: `mcpkeep backups` lists them",
        details={"path": path},
    )


def _write(data: bytes, target: Path, *, like: Path, calls: FileCalls) -> None:
    make_missing(target.parent, calls=calls, synced=False)
    fd = calls.create(target)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[calls.write(fd, rest) :]
        os.fchmod(fd, stat.S_IMODE(os.stat(like).st_mode))
    finally:
        calls.close(fd)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
