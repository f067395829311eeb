"""baseline/: upstream's bytes of what was last installed, by installed path; replaced as a whole."""

import os
from collections.abc import Sequence
from pathlib import Path

from mcpkeep.protocol.upgrade.places import CODE_PARTS, CONTENT_PARTS, Part
from mcpkeep.protocol.upgrade.plan import Plan
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders
from mcpkeep.supervisor.upgrade.apply import PlanContents
from mcpkeep.supervisor.upgrade.copying import Check, remove_tree
from mcpkeep.supervisor.upgrade.disk_failure import disk_failure
from mcpkeep.supervisor.upgrade.guarded_tree import GuardedTree
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.staging import copy_content, discard

__all__ = ["exchange_baseline", "renew_baseline", "settle_baseline"]


def renew_baseline(
    layout: Layout, plan: Plan, session_id: str, *, calls: FileCalls = OS_CALLS, check: Check = lambda: None
) -> None:
    """Make baseline/ upstream's version of each planned file, whatever was decided about it, durably.

    The former one is kept with the session's change, for the way back. A half of the installation (content, or code) that the plan has no file of keeps its baseline. Raises
    UpgradeFailed, and the old baseline stands.
    """
    new, old = _beside(layout, "new"), _beside(layout, "old")
    with disk_failure("renewing the baseline"):
        make_folders(layout.own, calls=calls)
        settle_baseline(layout, calls=calls)
        try:
            calls.mkdir(new)
            _fill(layout, plan, new, calls, check)
            calls.sync_tree(new)
            stands = layout.baseline.is_dir()
            if stands:
                calls.rename(layout.baseline, old)
            try:
                calls.rename(new, layout.baseline)
            except OSError:
                if stands:
                    calls.rename(old, layout.baseline)
                raise
        except BaseException:
            discard(new, calls)
            raise
        calls.fsync_folder(layout.own)
        _keep(layout, old, session_id, calls)


def exchange_baseline(
    layout: Layout, session_id: str, undone: Sequence[str], *, calls: FileCalls = OS_CALLS
) -> None:
    """Bring back the baseline from before the first of the changes `undone`; the present one is kept with
    the change of `session_id`. Nothing where none of them renewed it. Raises UpgradeFailed.
    """
    kept = next((path for one in undone if (path := _kept(layout, one)).is_dir()), None)
    if kept is None:
        return
    old = _beside(layout, "old")
    with disk_failure("bringing the baseline back"):
        settle_baseline(layout, calls=calls)
        if layout.baseline.is_dir():
            calls.rename(layout.baseline, old)
        calls.rename(kept, layout.baseline)
        calls.fsync_folder(layout.own)
        _keep(layout, old, session_id, calls)


def _kept(layout: Layout, session_id: str) -> Path:
    return layout.change(session_id) / "baseline"


def _keep(layout: Layout, old: Path, session_id: str, calls: FileCalls) -> None:
    """Put the former baseline to the change that replaced it; where there was none, an empty one."""
    kept = _kept(layout, session_id)
    if not kept.parent.is_dir() or kept.is_dir():
        discard(old, calls)
        return
    if old.is_dir():
        calls.rename(old, kept)
    else:
        calls.mkdir(kept)
    calls.fsync_folder(kept.parent)


def settle_baseline(layout: Layout, *, calls: FileCalls = OS_CALLS) -> None:
    """Finish or take back a renewal that was interrupted. Raises OSError."""
    new, old = _beside(layout, "new"), _beside(layout, "old")
    if not os.path.lexists(layout.baseline) and old.is_dir():
        calls.rename(old, layout.baseline)
        calls.fsync_folder(layout.own)
    for left in (new, old):
        remove_tree(left, calls=calls)


def _fill(layout: Layout, plan: Plan, new: Path, calls: FileCalls, check: Check) -> None:
    tree = GuardedTree(new, calls=calls)
    for half in (CONTENT_PARTS, CODE_PARTS):
        if layout.baseline.is_dir() and not any(_is_in(file.path, half) for file in plan.files):
            below = tuple(part.installed for part in half)
            copy_content(layout.baseline, new, below=below, calls=calls, check=check)
    for batch, blobs in PlanContents(layout, plan).batches(file for file in plan.files if file.upstream):
        for file in batch:
            check()
            assert file.upstream is not None
            tree.write(file.path, blobs[file.upstream.oid], file.upstream.mode)


def _is_in(path: str, parts: tuple[Part, ...]) -> bool:
    return any(path.startswith(f"{part.installed}/") for part in parts)


def _beside(layout: Layout, word: str) -> Path:
    return layout.baseline.with_name(f"{layout.baseline.name}.{word}")
