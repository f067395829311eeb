"""Unified diffs from what stands in the live tree to what would, by one call of git for all of them."""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.decisions import Outcome, outcome_of
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.file_mode import LINK
from mcpkeep.protocol.upgrade.line_endings import is_binary
from mcpkeep.protocol.upgrade.plan import Case, Choice, Decision, Plan, PlannedFile
from mcpkeep.supervisor.upgrade.apply import PlanContents
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.copying import Check
from mcpkeep.supervisor.upgrade.disk_failure import disk_failure
from mcpkeep.supervisor.upgrade.git import run_git
from mcpkeep.supervisor.upgrade.guarded_tree import GuardedTree, TreeFile
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["LONGEST_DIFF", "plan_diffs"]

LONGEST_DIFF = 1_000
"""Lines of one file's diff; what follows is counted."""

_LARGEST = 1024 * 1024
"""Bytes of a file; of larger ones only the sizes are told."""

# Raised by one whenever the diff of the same files comes to another text.
_FORMAT = 1
_KEPT = 1_000
"""Diffs in the cache; more than an upgrade has, so that it holds the last one's."""

_TAKE = Decision(Choice.TAKE, "diff")
# No setting of the user's may change how it looks, or run anything. A line of context begins with a space, so
# that no file's text looks like the head of the next file's diff.
_SETTINGS = ("core.autocrlf=false", "core.attributesFile=/dev/null", "diff.orderFile=/dev/null")
_WORDS = (
    *(word for setting in _SETTINGS for word in ("-c", setting)),
    *("diff", "--no-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "-U3"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
_HEAD = re.compile(r"^diff --git .*?(\d+)$\n", re.MULTILINE)
_BODY = re.compile(r"^@@ ", re.MULTILINE)


class _Sides(NamedTuple):
    old: TreeFile | None
    new: TreeFile | None


def plan_diffs(
    layout: Layout,
    plan: Plan,
    paths: Sequence[str],
    *,
    cache: Cache | None = None,
    check: Check = lambda: None,
) -> Mapping[str, str]:
    """By path, what would change; empty where nothing would. Of a conflict, what taking upstream's would.

    Of binary and very large files the sizes are told in a word. Links are shown by their targets. What the
    `cache` has of the same versions is not worked out again.

    Raises:
        UpgradeFailed: a path is not in the plan, a file changed since it was made, or git failed.
    """
    by_path = {file.path: file for file in plan.files}
    unknown = [path for path in paths if path not in by_path]
    if unknown:
        raise UpgradeFailed(f"the plan has no {unknown[0]!r}", remediation="name a file that the plan lists")
    cache = (cache or Cache(None)).without(layout.workspace, layout.base, Path(plan.source_path))
    kept_in = f"diffs-{_FORMAT}-{hashlib.sha256(bytes(layout.base)).hexdigest()[:16]}"
    kept = cache.read(kept_in, dict[str, str]) or {}
    # A file of a plan names the object ids of all that its diff is made of.
    names = {path: hashlib.sha256(msgspec.msgpack.encode(by_path[path])).hexdigest() for path in paths}
    missing = [by_path[path] for path, name in names.items() if name not in kept]
    if missing:
        made = {names[path]: text for path, text in _make(layout, plan, missing, check).items()}
        if len(kept) + len(made) > _KEPT:
            kept = {name: kept[name] for name in names.values() if name in kept}
        kept |= made
        cache.write(kept_in, kept)
    return {path: kept[name] for path, name in names.items()}


def _make(layout: Layout, plan: Plan, files: Sequence[PlannedFile], check: Check) -> dict[str, str]:
    contents = PlanContents(layout, plan)
    diffs = {file.path: "" for file in files}
    decided = {file.path: _TAKE if file.case is Case.CONFLICT else None for file in files}
    changed = [file for file in files if outcome_of(file, decided[file.path]) is not Outcome.LEAVE]
    with disk_failure("comparing files"):
        for batch, blobs in contents.batches(changed):
            sides: dict[str, _Sides] = {}
            for file in batch:
                check()
                new, _ = contents.result(file, decided[file.path], blobs)
                sides[file.path] = _Sides(contents.local(file), new)
            diffs |= {path: _in_words(side) for path, side in sides.items()}
            said = _compare({path: side for path, side in sides.items() if not diffs[path]})
            for file in batch:
                if file.path in said:
                    former = file.renamed_from or file.path
                    diffs[file.path] = _headed(said[file.path], file.path, former, sides[file.path])
                elif not diffs[file.path] and file.renamed_from is not None:
                    diffs[file.path] = f"renamed: {file.renamed_from} -> {file.path}\n"
    return diffs


def _in_words(sides: _Sides) -> str:
    present = [side for side in sides if side is not None]
    if len({side.mode == LINK for side in present}) > 1:
        return (
            " -> ".join(
                f"link to {os.fsdecode(side.data)!r}"
                if side.mode == LINK
                else f"file of {len(side.data)} bytes"
                for side in present
            )
            + "\n"
        )
    if all(
        len(side.data) <= _LARGEST and (side.mode == LINK or not is_binary(side.data)) for side in present
    ):
        return ""
    kind = "binary" if any(is_binary(side.data) for side in present) else "large"
    sizes = [f"{len(side.data)} bytes" if side is not None else "absent" for side in sides]
    if sides.old is not None and sides.new is not None and sides.old.data == sides.new.data:
        return f"{kind}: mode {sides.old.mode} -> {sides.new.mode}\n"
    return f"{kind}: {sizes[0]} -> {sizes[1]}\n"


def _compare(texts: Mapping[str, _Sides]) -> dict[str, str]:
    """What git says of each, without its first line, which has numbers for names."""
    if not texts:
        return {}
    paths = list(texts)
    with tempfile.TemporaryDirectory(prefix="mcpkeep-diff-") as name:
        folder = Path(name)
        for side in ("a", "b"):
            (folder / side).mkdir()
            tree = GuardedTree(folder / side)
            for number, path in enumerate(paths):
                version = texts[path].old if side == "a" else texts[path].new
                if version is not None:
                    tree.write(str(number), version.data, version.mode)
        said = run_git(folder, *_WORDS, "--", "a", "b", accept=(0, 1)).decode(errors="replace")
    pieces = _HEAD.split(said)[1:]
    return {paths[int(number)]: text for number, text in zip(pieces[::2], pieces[1::2], strict=True)}


def _headed(text: str, path: str, former: str, sides: _Sides) -> str:
    """With the file's names, and the mode where that changes or the kind is none of text."""
    head, body = text, ""
    found = _BODY.search(text)
    if found is not None:
        head, body = text[: found.start()], text[found.start() :]
    modes = [line for line in head.splitlines() if " mode " in line]
    lines = body.splitlines(keepends=True)
    if len(lines) > LONGEST_DIFF:
        lines[LONGEST_DIFF:] = [f"... {len(lines) - LONGEST_DIFF} more lines\n"]
    names = [
        f"--- {f'a/{former}' if sides.old is not None else os.devnull}",
        f"+++ {f'b/{path}' if sides.new is not None else os.devnull}",
    ]
    return "".join(f"{line}\n" for line in (*modes, *names)) + "".join(lines)
