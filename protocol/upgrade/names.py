"""Names of a source's files: where each is installed, and which are refused because they could do harm."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from mcpkeep.protocol.upgrade.places import BASES, PARTS

__all__ = [
    "LONGEST_NAME",
    "LONGEST_PATH",
    "collisions",
    "fold",
    "hostile_name",
    "installed_path",
    "is_skipped",
    "link_leads_out",
    "part_of",
    "source_path",
]

LONGEST_NAME = 255
"""Bytes of one component: what ext4, APFS and NTFS take."""

LONGEST_PATH = 800
"""Bytes below the installation's folder; macOS takes 1024 for the whole path."""

_MOST_HOPS = 40  # as Linux
_SKIPPED = frozenset(("__pycache__", ".DS_Store", ".pytest_cache", ".mypy_cache", *BASES, ".cursor", ".git"))
# Bidirectional overrides let a name look like another one.
_DECEITFUL = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def is_skipped(path: str) -> bool:
    """Whether upstream's installer leaves it out; `.git` besides, which no installer may bring."""
    names = path.split("/")
    return names[-1].endswith(".pyc") or not _SKIPPED.isdisjoint(names)


def installed_path(source: str) -> str | None:
    """Where a source's file is installed; None where it is not."""
    for part in PARTS:
        if source.startswith(part.source) and source[len(part.source) : len(part.source) + 1] == "/":
            inner = source[len(part.source) :]
            return None if is_skipped(inner) else part.installed + inner
    return None


def source_path(installed: str) -> str | None:
    """Which file of the source is installed there; None where none can be."""
    for part in PARTS:
        if installed.startswith(part.installed + "/"):
            return part.source + installed[len(part.installed) :]
    return None


def part_of(installed: str) -> str | None:
    """The installed folder of the part that a path belongs to; None where it belongs to none."""
    return next((part.installed for part in PARTS if installed.startswith(part.installed + "/")), None)


def hostile_name(path: str) -> str | None:
    """Why a file of that name is refused; None where it may be written. Not UTF-8 comes as surrogates."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if path.startswith("/"):
        return "is absolute"
    if len(encoded) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} bytes"
    if any(letter in _DECEITFUL or unicodedata.category(letter) == "Cc" for letter in path):
        return "has control characters"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return f"has {name!r} in it"
        if len(name.encode()) > LONGEST_NAME:
            return f"has a name longer than {LONGEST_NAME} bytes"
        if _is_git(name):
            return "names a repository's own files"
    return None


def fold(path: str) -> str:
    """What a file system that ignores case and unicode forms takes a path for."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def collisions(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of a tree's paths that are one on some file system, or of which one must be file and folder."""
    spelled: dict[str, str] = {}
    files: set[str] = set()
    folders: dict[str, str] = {}
    for path in sorted(paths):
        if path in files:
            yield path, path
        files.add(path)
        here = path
        while here:
            key = fold(here)
            other = spelled.setdefault(key, here)
            if other != here:
                yield other, here
            here = here.rpartition("/")[0]
            if folders.setdefault(here, path) != path:
                break
    for path in sorted(files & folders.keys()):
        yield path, folders[path]


def link_leads_out(path: str, targets: Mapping[str, str], root: str) -> bool:
    """Whether the link `path` leads out of the folder `root`, by itself or through other links of the tree.

    `targets` has every link's target. What cannot be followed (a loop, an empty target) leads out too.
    """
    here = path.split("/")[:-1]
    depth = len(root.split("/"))
    ahead = [path.rpartition("/")[2]]
    hops = 0
    while ahead:
        name = ahead.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here.pop()
            if len(here) < depth:
                return True
            continue
        here.append(name)
        target = targets.get("/".join(here))
        if target is None:
            continue
        hops += 1
        if hops > _MOST_HOPS or not target or target.startswith("/") or "\0" in target:
            return True
        here.pop()
        ahead.extend(reversed(target.split("/")))
    return False


def _is_git(name: str) -> bool:
    # HFS+ drops ignorable characters, NTFS trailing dots and spaces, and knows the short name.
    plain = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", plain).casefold().rstrip(". ") in (".git", "git~1")
