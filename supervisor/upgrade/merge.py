"""Merges two changed versions of a file with what both came from; never with a conflict marker."""

import hashlib
import tempfile
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.json_merge import NotJson, merge_json
from mcpkeep.protocol.upgrade.line_endings import (
    LineEndings,
    is_binary,
    line_endings,
    normalised,
    with_line_endings,
)
from mcpkeep.protocol.upgrade.markers import has_conflict_markers
from mcpkeep.supervisor.upgrade.git import run_git

__all__ = ["MERGE_LIMIT", "merge_bytes"]

MERGE_LIMIT = 16 * 1024 * 1024
"""Bytes; nothing that people write is larger, and a diff of it could take minutes."""

_CONFLICTS = range(128)  # git merge-file ends with their number, cut at 127


def merge_bytes(base: bytes, ours: bytes, theirs: bytes, *, path: str) -> bytes | None:
    """Ours with what they changed since base, in our line endings; None where the changes overlap.

    JSON, by the name in `path`, is merged by key where all three can be read, other text by lines. Binary
    and oversized files, and texts that came to hold conflict markers, are overlaps whatever is in them.
    Where only one side changed, or both alike, the answer is that side's bytes as they are.

    Raises:
        UpgradeFailed: git cannot be run, or there is no room for temporary files.
    """
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    if any(is_binary(side) or len(side) > MERGE_LIMIT for side in (base, ours, theirs)):
        return None
    # Mixed endings are merged as they are: to bring them to one would change lines that nobody touched.
    if LineEndings.MIXED in map(line_endings, (base, ours, theirs)):
        return _merge(base, ours, theirs, path)
    endings = next(
        (found for found in map(line_endings, (ours, theirs, base)) if found is not LineEndings.NONE),
        LineEndings.NONE,
    )
    merged = _merge(normalised(base), normalised(ours), normalised(theirs), path)
    return None if merged is None else with_line_endings(merged, endings)


def _merge(base: bytes, ours: bytes, theirs: bytes, path: str) -> bytes | None:
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    merged: bytes | None
    try:
        merged = _by_key(base, ours, theirs) if path.endswith(".json") else _by_lines(base, ours, theirs)
    except NotJson:
        merged = _by_lines(base, ours, theirs)
    return None if merged is None or has_conflict_markers(merged) else merged


def _by_key(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    try:
        merged = merge_json(base.decode(), ours.decode(), theirs.decode())
    except UnicodeDecodeError as error:
        raise NotJson("not in UTF-8") from error
    return None if merged is None else merged.encode()


def _by_lines(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    # Markers are told by a label that none of the texts can hold, not by how they look.
    label = hashlib.sha256(b"\0".join((base, ours, theirs))).hexdigest()
    try:
        with tempfile.TemporaryDirectory(prefix="mcpkeep-merge-") as name:
            folder = Path(name)
            for side, data in (("ours", ours), ("base", base), ("theirs", theirs)):
                (folder / side).write_bytes(data)
            words = ("-L", label, "-L", label, "-L", label, "ours", "base", "theirs")
            merged = run_git(folder, "merge-file", "--stdout", "--quiet", *words, accept=_CONFLICTS)
    except OSError as error:
        raise UpgradeFailed(
            f"a merge's temporary files cannot be written: {error.strerror}",
            remediation=f"make room in {tempfile.gettempdir()!r}",
        ) from error
    return None if label.encode() in merged else merged
