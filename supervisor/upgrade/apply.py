"""Carries a plan out in the staging workspace, and keeps both sides of each conflict aside.

Everything is written from the source's objects and the live files, never from what stands in staging: to do
it again, after a crash or with other decisions, comes to the same as doing it once.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mcpkeep.protocol.upgrade.blob import blob_id, is_blob
from mcpkeep.protocol.upgrade.decisions import Outcome, outcome_of, text_of
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.file_mode import LINK, PLAIN, merged_mode
from mcpkeep.protocol.upgrade.line_endings import line_endings, normalised, with_line_endings
from mcpkeep.protocol.upgrade.plan import Applied, Case, Choice, Decision, Mode, Plan, PlannedFile, Version
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders
from mcpkeep.supervisor.upgrade.blobs import read_blobs
from mcpkeep.supervisor.upgrade.copying import Check, spread
from mcpkeep.supervisor.upgrade.disk_failure import disk_failure
from mcpkeep.supervisor.upgrade.guarded_tree import GuardedTree, TreeFile
from mcpkeep.supervisor.upgrade.index import filled_at
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.merge import merge_bytes
from mcpkeep.supervisor.upgrade.removal import remove_empty, remove_tree
from mcpkeep.supervisor.upgrade.staging import copy_file_as_it_is, discard

__all__ = ["PlanContents", "apply_plan", "forget_conflicts", "verify_staged"]

OURS, THEIRS = "yours", "theirs"
"""The folders under conflicts/<session>/, each with whole files by their own paths."""

_BATCH = 32 * 1024 * 1024
"""Bytes of contents held in memory at once, where no single file is larger."""


class PlanContents:
    """What the files of a plan hold: the user's, what was installed, upstream's, and what comes of them."""

    def __init__(self, layout: Layout, plan: Plan) -> None:
        self.plan = plan
        self._live = GuardedTree(layout.base)
        self._baseline = GuardedTree(layout.baseline)

    def batches(self, files: Iterable[PlannedFile]) -> Iterator[tuple[list[PlannedFile], dict[str, bytes]]]:
        """Files with their upstream and base contents by object id; as many at a time as memory should hold.

        Raises UpgradeFailed where the source lacks upstream's version of one.
        """
        waiting = list(files)
        while waiting:
            size, count = 0, 0
            for file in waiting:
                size += sum(version.size for version in (file.upstream, _base(file)) if version)
                if count and size > _BATCH:
                    break
                count += 1
            batch, waiting = waiting[:count], waiting[count:]
            wanted = {v.oid for file in batch for v in (file.upstream, _base(file)) if v}
            found = read_blobs(Path(self.plan.source_path), wanted)
            for file in batch:
                if file.upstream is not None and file.upstream.oid not in found:
                    raise UpgradeFailed(
                        f"{file.path!r} as of {self.plan.source_commit[:10]} is gone from the source",
                        remediation="make a full clone of the source, and a new plan",
                    )
            yield batch, found

    def local(self, file: PlannedFile) -> TreeFile | None:
        """The user's file as it stands there, maybe by the name that upstream has given up.

        Raises UpgradeFailed where it is not the one that the plan saw.
        """
        for path in (file.path, file.renamed_from):
            found = self._live.read(path) if path is not None else None
            if file.local is None:
                if found is not None and path == file.path:
                    raise _stale(file.path)
            elif found is not None and is_blob(found.data, file.local.oid):
                return found
        if file.local is not None:
            raise _stale(file.path)
        return None

    def result(
        self, file: PlannedFile, decision: Decision | None, blobs: Mapping[str, bytes]
    ) -> tuple[TreeFile | None, int | None]:
        """What the file is to be, or None for absent; and the permissions of the one it takes the place of.

        Only for outcomes other than LEAVE. Raises UpgradeFailed as local(), and where a merge does not come
        to what the plan says.
        """
        outcome = outcome_of(file, decision)
        local = self.local(file)
        bits = local.bits if local is not None and local.mode != LINK else None
        if outcome is Outcome.REMOVE:
            return None, bits
        if outcome is Outcome.TEXT and decision is not None:
            text = text_of(file.path, decision)
            modes: list[Mode] = [side.mode for side in (file.local, file.upstream) if side] or [PLAIN]
            mode = merged_mode(file.base.mode if file.base else None, modes[0], modes[-1])
            return TreeFile(_in_endings_of(local, text, mode), mode, 0), bits
        if outcome is Outcome.MERGED:
            data, mode = self._merged(file, local, blobs)
            return TreeFile(data, mode, 0), bits
        assert file.upstream is not None
        data, mode = blobs[file.upstream.oid], file.upstream.mode
        # Where the user's is the installed version to the byte, upstream's endings are as good as its text.
        if local is None or file.base is None or blob_id(local.data, like=file.base.oid) != file.base.oid:
            data = _in_endings_of(local, data, mode)
        return TreeFile(data, mode, 0), bits

    def _merged(
        self, file: PlannedFile, local: TreeFile | None, blobs: Mapping[str, bytes]
    ) -> tuple[bytes, Mode]:
        assert file.merged is not None and file.upstream is not None and local is not None
        theirs = blobs[file.upstream.oid]
        mode, oid = file.merged.mode, file.merged.oid
        # Often only a name or a mode was merged, and the content is one side's.
        if is_blob(local.data, oid):
            return local.data, mode
        if file.upstream.oid == oid:
            return _in_endings_of(local, theirs, mode), mode
        merged = merge_bytes(self._base_of(file, blobs), local.data, theirs, path=file.path)
        if merged is None or not is_blob(merged, oid):
            raise UpgradeFailed(
                f"{file.path!r} no longer merges as planned", remediation="make a new plan, and decide again"
            )
        return merged, mode

    def _base_of(self, file: PlannedFile, blobs: Mapping[str, bytes]) -> bytes:
        assert file.base is not None
        if file.base.oid in blobs:
            return blobs[file.base.oid]
        for path in (file.path, file.renamed_from):
            kept = self._baseline.read(path) if path is not None else None
            if kept is not None and is_blob(kept.data, file.base.oid):
                return kept.data
        raise UpgradeFailed(
            f"the version of {file.path!r} that was installed is gone from the source and the baseline",
            remediation="make a new plan, and decide again",
        )


def apply_plan(
    layout: Layout,
    plan: Plan,
    session_id: str,
    decisions: Mapping[str, Decision],
    *,
    calls: FileCalls = OS_CALLS,
    check: Check = lambda: None,
) -> Applied:
    """Make the staged tree what the plan and the decisions come to, durably.

    Raises:
        UpgradeFailed: a conflict has no decision, a text has conflict markers, a file changed since the plan
            was made, or the disk failed; nothing live was touched, and the staged tree may be half done.
    """
    decided = {file.path: decisions[file.path] for file in plan.conflicts if file.path in decisions}
    outcomes = {file.path: outcome_of(file, decided.get(file.path)) for file in plan.files}
    for path, decision in decided.items():
        if decision.choice is Choice.MERGE:
            text_of(path, decision)
    if not layout.staged(session_id).is_dir():
        raise UpgradeFailed(
            f"there is no staging workspace for {session_id!r}", remediation="begin the upgrade again"
        )
    touched = [file for file in plan.files if outcomes[file.path] is not Outcome.LEAVE]
    written = [file for file in touched if outcomes[file.path] is not Outcome.REMOVE]
    targets = {file.path for file in written}
    gone = {file.path for file in touched} - targets
    gone |= {file.renamed_from for file in written if file.renamed_from is not None} - targets
    with disk_failure("applying the plan in staging"):
        live, staged = GuardedTree(layout.base), GuardedTree(layout.staged(session_id), calls=calls)
        removed = sorted(path for path in gone if live.stat(path) is not None)
        contents = PlanContents(layout, plan)
        # An index that is built here covers these files: to its server none may look newer than it.
        moment = int(filled_at(layout.staged(session_id)).timestamp() - 1) * 10**9
        for file in touched:
            if outcomes[file.path] is Outcome.REMOVE:
                contents.local(file)
        # A folder may become a file, or a file a folder.
        for path in sorted(gone):
            staged.remove(path)
        for file in plan.files:
            if outcomes[file.path] is Outcome.LEAVE:
                for name in (file.path, file.renamed_from):
                    if name is not None and name not in gone and name not in targets:
                        _restore(live, staged, name, calls)
        aside = GuardedTree(layout.conflicts(session_id), calls=calls)
        remove_tree(aside.root, calls=calls)
        if decided:
            make_folders(aside.root, calls=calls)
        try:
            needed = targets | decided.keys()
            for batch, blobs in contents.batches(file for file in plan.files if file.path in needed):

                def write(file: PlannedFile, blobs: Mapping[str, bytes] = blobs) -> None:
                    if file.path in decided:
                        _keep_aside(aside, file, contents.local(file), blobs)
                    if file.path in targets:
                        result, bits = contents.result(file, decided.get(file.path), blobs)
                        assert result is not None
                        staged.write(file.path, result.data, result.mode, bits=bits, mtime_ns=moment)

                spread(write, batch, check=check)
            calls.sync_tree(layout.staging(session_id))
            if decided:
                calls.sync_tree(aside.root)
        except BaseException:
            discard(aside.root, calls)
            raise
    return Applied(
        written=tuple(sorted(targets)),
        removed=tuple(removed),
        new_files=sum(file.case is Case.ADD for file in written),
        updated_files=sum(file.case in (Case.UPDATE, Case.MERGE) for file in written),
        conflicts_resolved=len(decided),
        decisions=decided,
        kept_aside={path: _not_taken(layout, aside, path, decision) for path, decision in decided.items()},
    )


def forget_conflicts(layout: Layout, session_id: str, *, calls: FileCalls = OS_CALLS) -> None:
    """Remove what apply_plan() laid aside for an upgrade that did not happen. Raises UpgradeFailed."""
    aside = layout.conflicts(session_id)
    with disk_failure("removing the other sides of conflicts"):
        for side in (OURS, THEIRS):
            remove_tree(aside / side, calls=calls)
        for folder in (aside, aside.parent):
            remove_empty(folder, calls)


def verify_staged(layout: Layout, plan: Plan, session_id: str, applied: Applied) -> tuple[str, ...]:
    """The paths whose staged file is not what the plan and its decisions come to, by their git ids.

    Raises UpgradeFailed where one cannot be read.
    """
    staged = GuardedTree(layout.staged(session_id))

    def is_right(file: PlannedFile) -> bool:
        decision = applied.decisions.get(file.path)
        found = staged.read(file.path)
        match outcome_of(file, decision):
            case Outcome.LEAVE:
                return True
            case Outcome.REMOVE:
                return found is None
            case Outcome.TEXT:
                assert decision is not None
                return found is not None and normalised(found.data) == normalised(
                    text_of(file.path, decision)
                )
            case Outcome.UPSTREAM:
                return found is not None and _is_version(found, file.upstream)
            case Outcome.MERGED:
                return found is not None and _is_version(found, file.merged)

    with disk_failure("reading the staging workspace"):
        return tuple(file.path for file in plan.files if not is_right(file))


def _is_version(found: TreeFile, expected: Version | None) -> bool:
    return expected is not None and found.mode == expected.mode and is_blob(found.data, expected.oid)


def _base(file: PlannedFile) -> Version | None:
    return file.base if file.case is Case.MERGE else None


def _in_endings_of(local: TreeFile | None, data: bytes, mode: Mode) -> bytes:
    if local is None or LINK in (local.mode, mode):
        return data
    return with_line_endings(data, line_endings(local.data))


def _stale(path: str) -> UpgradeFailed:
    return UpgradeFailed(
        f"{path!r} changed since the plan was made",
        remediation="make a new plan, and decide again",
        details={"path": path},
    )


def _restore(live: GuardedTree, staged: GuardedTree, path: str, calls: FileCalls) -> None:
    """Make a staged file the live one again, where an earlier try with other decisions had changed it."""
    stands, copy = live.stat(path), staged.stat(path)
    if stands is not None and copy is not None and _look_alike(stands, copy):
        return
    staged.remove(path)
    if stands is None or stat.S_ISDIR(stands.st_mode):
        return
    if stat.S_ISLNK(stands.st_mode):
        staged.write(path, os.fsencode(os.readlink(live.root / path)), LINK)
        return
    staged.make_folders(path)
    copy_file_as_it_is(path, live.root / path, staged.root / path, calls=calls)


def _look_alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two files, neither a link, have one kind, permissions, size and time."""
    states = [(found.st_mode, found.st_size, found.st_mtime_ns) for found in (one, other)]
    return states[0] == states[1] and not stat.S_ISLNK(one.st_mode)


def _keep_aside(
    aside: GuardedTree, file: PlannedFile, local: TreeFile | None, blobs: Mapping[str, bytes]
) -> None:
    """Write both sides of a conflict, whole."""
    if local is not None:
        aside.write(f"{OURS}/{file.path}", local.data, local.mode)
    if file.upstream is not None:
        aside.write(f"{THEIRS}/{file.path}", blobs[file.upstream.oid], file.upstream.mode)


def _not_taken(layout: Layout, aside: GuardedTree, path: str, decision: Decision) -> str:
    side = THEIRS if decision.choice is Choice.KEEP else OURS
    return (aside.root / side / path).relative_to(layout.base).as_posix()
