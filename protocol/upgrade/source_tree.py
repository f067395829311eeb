"""The files of a source's commit: which are installed where, and every reason to refuse them."""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mcpkeep.protocol.upgrade.facts import Problem
from mcpkeep.protocol.upgrade.git_listing import TreeEntry
from mcpkeep.protocol.upgrade.manifest import (
    MANIFEST,
    ManifestUnreadable,
    hostile_entries,
    lies,
    read_manifest,
)
from mcpkeep.protocol.upgrade.names import collisions, hostile_name, installed_path, link_leads_out
from mcpkeep.protocol.upgrade.places import PARTS
from mcpkeep.protocol.upgrade.plan import Version

__all__ = [
    "LARGEST_FILE",
    "LARGEST_TREE",
    "MANIFEST_PATH",
    "POINTER_LIMIT",
    "VERSION_FILES",
    "SourceTree",
    "enumerate_some",
    "judge_tree",
    "read_version",
]

LARGEST_FILE = 64 * 1024 * 1024
"""Bytes; what is installed is text of some kilobytes, and a plan holds a whole file in memory to merge it."""

LARGEST_TREE = 2 * 1024 * 1024 * 1024
"""Bytes in all; a thousand times of what upstream has, and still fits beside its backup on a small disk."""

POINTER_LIMIT = 1024
"""Bytes; git-lfs's specification has pointers be smaller. Links are no longer either."""

VERSION_FILES = ("VERSION.txt", "VERSION")
MANIFEST_PATH = f"universal/{MANIFEST}"

_POINTER = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/")
_SHOWN = 3


class SourceTree(msgspec.Struct, frozen=True):
    """What a commit has to install; nothing may be installed of one with problems."""

    files: Mapping[str, Version]
    """By the path where each is installed."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    version: str | None
    """What its VERSION file says; None where it has none."""


def judge_tree(
    entries: Sequence[TreeEntry], small: Mapping[str, bytes], checksums: Mapping[str, str]
) -> SourceTree:
    """Sort out a commit's files.

    Args:
        entries: all under the parts of a source, its manifest and its VERSION files.
        small: by object id, the bytes of links, files below POINTER_LIMIT, and the manifest.
        checksums: SHA-256 by path, of what is under `universal/`; empty where there is no manifest.
    """
    problems: list[Problem] = []
    inside = [entry for entry in entries if _root(entry.path) is not None]
    hostile = {entry.path: reason for entry in inside if (reason := hostile_name(entry.path)) is not None}
    for path in (entry.path for entry in entries if any(entry.path == part.source for part in PARTS)):
        hostile[path] = "is no folder"
    manifest_problems, warnings = _judge_manifest(entries, small, checksums)
    _report(problems, hostile, "cannot be written safely", "do not install this source; tell its authors")
    problems.extend(manifest_problems)
    installed = [e for e in inside if e.path not in hostile and installed_path(e.path) is not None]
    _report(
        problems,
        dict(_explain_collisions(collisions(entry.path for entry in installed))),
        "collide where case or unicode forms are ignored",
        "rename one of each pair in the source",
    )
    modules = [entry.path for entry in installed if entry.mode is None]
    _report(
        problems,
        dict.fromkeys(modules, ""),
        "are submodules, whose bytes are not in the repository",
        "use a source that holds all its files itself",
    )
    files = [entry for entry in installed if entry.mode is not None]
    _report(
        problems, _leading_out(files, small), "are links that lead out", "replace them by files in the source"
    )
    pointers = [e.path for e in files if e.mode != "120000" and _POINTER.match(small.get(e.oid, b""))]
    _report(
        problems,
        dict.fromkeys(pointers, ""),
        "are LFS pointers, whose bytes are not in the repository",
        "use a source that holds all its files itself",
    )
    huge = {entry.path: f"{entry.size} bytes" for entry in files if entry.size > LARGEST_FILE}
    _report(problems, huge, f"are larger than {LARGEST_FILE} bytes", "take them out of the source")
    total = sum(entry.size for entry in files)
    if total > LARGEST_TREE:
        problems.append(
            Problem(
                f"the source's files come to {total} bytes, more than {LARGEST_TREE}",
                "take out of the source what is not to be installed",
            )
        )
    return SourceTree(
        files={
            place: Version(entry.oid, entry.mode, entry.size)
            for entry in files
            if entry.mode is not None and (place := installed_path(entry.path)) is not None
        },
        problems=tuple(problems),
        warnings=warnings,
        version=next(
            (read_version(small.get(e.oid, b"")) for n in VERSION_FILES for e in entries if e.path == n), None
        ),
    )


def read_version(data: bytes) -> str | None:
    """The version that a VERSION file names: its first line, or what stands after `version=`."""
    lines = data.decode(errors="replace").strip().splitlines()
    named = lines[0].strip() if lines else ""
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and key.strip().lower() == "version":
            named = value.strip()
    return named if named.isprintable() and 0 < len(named) <= 64 else None


def enumerate_some(names: Iterable[str]) -> str:
    """The first few, quoted, and how many more there are."""
    quoted = [repr(name) for name in names]
    more = len(quoted) - _SHOWN
    return ", ".join(quoted[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _report(problems: list[Problem], found: Mapping[str, str], fact: str, remedy: str) -> None:
    if found:
        shown = [f"{path!r} ({why})" if why else repr(path) for path, why in list(found.items())[:_SHOWN]]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        problems.append(Problem(f"paths of the source {fact}: {', '.join(shown)}{more}", remedy))


def _root(path: str) -> str | None:
    return next((part.source for part in PARTS if path.startswith(part.source + "/")), None)


def _explain_collisions(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for one, other in pairs:
        yield one, "twice in its tree" if one == other else f"with {other!r}"


def _leading_out(files: Iterable[TreeEntry], small: Mapping[str, bytes]) -> Mapping[str, str]:
    links = {
        entry.path: small.get(entry.oid, b"").decode(errors="surrogateescape")
        for entry in files
        if entry.mode == "120000"
    }
    return {
        path: f"to {target!r}"
        for path, target in links.items()
        if (root := _root(path)) is not None and link_leads_out(path, links, root)
    }


def _judge_manifest(
    entries: Sequence[TreeEntry], small: Mapping[str, bytes], checksums: Mapping[str, str]
) -> tuple[list[Problem], tuple[str, ...]]:
    entry = next((entry for entry in entries if entry.path == MANIFEST_PATH), None)
    if entry is None:
        return [], ()
    try:
        manifest = read_manifest(small.get(entry.oid, b""))
    except ManifestUnreadable:
        return [], (f"the source's {MANIFEST_PATH} cannot be read; it is not needed",)
    problems: list[Problem] = []
    _report(
        problems,
        hostile_entries(manifest),
        f"in its {MANIFEST} cannot be written safely",
        "do not install this source; tell its authors",
    )
    wrong, absent = lies(manifest, checksums)
    if not wrong and not absent:
        return problems, ()
    return problems, (
        f"the source's {MANIFEST_PATH} is out of date: {len(wrong) + len(absent)} of {len(manifest.files)} "
        "entries; it is not used",
    )
