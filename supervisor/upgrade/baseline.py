"""baseline/: upstream's bytes of what was last installed, by installed path; replaced as a whole."""

import os
from collections.abc import Sequence
from pathlib import Path

from mcpkeep.protocol.upgrade.blob import is_blob
from mcpkeep.protocol.upgrade.places import CODE_PARTS, CONTENT_PARTS, Part
from mcpkeep.protocol.upgrade.plan import Plan
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders
from mcpkeep.supervisor.upgrade.apply import PlanContents
from mcpkeep.supervisor.upgrade.blobs import read_blobs
from mcpkeep.supervisor.upgrade.copying import Check
from mcpkeep.supervisor.upgrade.disk_failure import disk_failure
from mcpkeep.supervisor.upgrade.guarded_tree import GuardedTree
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.staging import copy_content, discard

__all__ = ["BASELINE", "exchange_baseline", "renew_baseline", "settle_baseline"]


BASELINE = "baseline"
"""In a rollback's staging: the baseline that it leads to."""


def renew_baseline(
    layout: Layout,
    plan: Plan,
    session_id: str,
    *,
    lacking: Sequence[str] = (),
    calls: FileCalls = OS_CALLS,
    check: Check = lambda: None,
) -> None:
    """Make baseline/ upstream's version of each planned file, whatever was decided about it, durably.

    Of the paths `lacking`, which came to be without that version, it is the base that the plan knew.
    The former one is kept with the session's change, for the way back. A half of the installation (content,
    or code) that the plan has no file of keeps its baseline. Raises UpgradeFailed, and the former one stands.
    """
    new = _new(layout)
    with disk_failure("renewing the baseline"):
        make_folders(layout.own, calls=calls)
        settle_baseline(layout, calls=calls)
        try:
            calls.mkdir(new)
            _fill(layout, plan, new, frozenset(lacking), calls, check)
            calls.sync_tree(new)
            _replace(layout, new, session_id, calls)
        except BaseException:
            discard(new, calls)
            raise


def exchange_baseline(
    layout: Layout,
    session_id: str,
    undone: Sequence[str],
    *,
    lacking: Sequence[str] = (),
    calls: FileCalls = OS_CALLS,
) -> None:
    """Bring back the baseline from before the first of the changes `undone`, or the one that was staged; the
    present one is kept with the change of `session_id`, and stays that of the paths `lacking`, where the
    user's stood in the way. Nothing where there is none. Raises UpgradeFailed.
    """
    with disk_failure("bringing the baseline back"):
        settle_baseline(layout, calls=calls)
        staged = layout.staging(session_id) / BASELINE
        kept = next((p for p in (staged, *(_kept(layout, one) for one in undone)) if p.is_dir()), None)
        # Where the present one is kept already, it has been done: another's would be the wrong one.
        if kept is not None and not _kept(layout, session_id).is_dir():
            if lacking:
                present, back = GuardedTree(layout.baseline), GuardedTree(kept, calls=calls)
                for name in lacking:
                    back.remove(name)
                    if (file := present.read(name)) is not None:
                        back.write(name, file.data, file.mode)
                calls.sync_tree(kept)
            _replace(layout, kept, session_id, calls)


def settle_baseline(layout: Layout, *, calls: FileCalls = OS_CALLS) -> None:
    """Finish or take back a replacement that was interrupted. Raises OSError."""
    for old in layout.own.glob(f"{layout.baseline.name}.*.old"):
        if os.path.lexists(layout.baseline):
            _keep(layout, old, calls)
        else:
            calls.rename(old, layout.baseline)
            calls.fsync_folder(layout.own)
    remove_tree(_new(layout), calls=calls)


def _replace(layout: Layout, new: Path, session_id: str, calls: FileCalls) -> None:
    old = layout.baseline.with_name(f"{layout.baseline.name}.{session_id}.old")
    if layout.baseline.is_dir():
        calls.rename(layout.baseline, old)
    else:
        # That there was none is kept too.
        calls.mkdir(old)
    try:
        calls.rename(new, layout.baseline)
    except OSError:
        calls.rename(old, layout.baseline)
        raise
    calls.fsync_folder(layout.own)
    _keep(layout, old, calls)


def _keep(layout: Layout, old: Path, calls: FileCalls) -> None:
    """Put the former baseline to the change that replaced it first, if that is kept."""
    session_id = old.name.removeprefix(f"{layout.baseline.name}.").removesuffix(".old")
    kept = _kept(layout, session_id)
    if not kept.parent.is_dir() or kept.is_dir():
        discard(old, calls)
    else:
        calls.rename(old, kept)
        calls.fsync_folder(kept.parent)


def _kept(layout: Layout, session_id: str) -> Path:
    return layout.change(session_id) / "baseline"


def _new(layout: Layout) -> Path:
    return layout.baseline.with_name(f"{layout.baseline.name}.new")


def _fill(
    layout: Layout, plan: Plan, new: Path, lacking: frozenset[str], calls: FileCalls, check: Check
) -> None:
    tree = GuardedTree(new, calls=calls)
    for half in (CONTENT_PARTS, CODE_PARTS):
        if layout.baseline.is_dir() and not any(_is_in(file.path, half) for file in plan.files):
            below = tuple(part.installed for part in half)
            copy_content(layout.baseline, new, below=below, calls=calls, check=check)
    current = (file for file in plan.files if file.upstream and file.path not in lacking)
    for batch, blobs in PlanContents(layout, plan).batches(current):
        for file in batch:
            check()
            assert file.upstream is not None
            tree.write(file.path, blobs[file.upstream.oid], file.upstream.mode)

    bases = {file.renamed_from or file.path: file.base for file in plan.files if file.base is not None}
    kept = {path: bases[path] for path in sorted(lacking) if path in bases}
    found = read_blobs(Path(plan.source_path), {version.oid for version in kept.values()})
    former = GuardedTree(layout.baseline)
    for path, version in kept.items():
        before = former.read(path)
        if version.oid in found:
            tree.write(path, found[version.oid], version.mode)
        elif before is not None and is_blob(before.data, version.oid):
            tree.write(path, before.data, before.mode)


def _is_in(path: str, parts: tuple[Part, ...]) -> bool:
    return any(path.startswith(f"{part.installed}/") for part in parts)
