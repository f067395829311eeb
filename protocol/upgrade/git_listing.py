"""What git's commands print with -z, read: a commit's tree, the log with its changes, the status."""

from collections.abc import Iterator
from typing import NamedTuple

from mcpkeep.protocol.upgrade.history import Change, Commit, Rename
from mcpkeep.protocol.upgrade.names import installed_path
from mcpkeep.protocol.upgrade.plan import Mode

__all__ = ["LOG_FORMAT", "TreeEntry", "parse_log", "parse_status", "parse_tree"]

LOG_FORMAT = "%x01%H %P"
"""A line that no raw change and no path in its place can be taken for."""


class TreeEntry(NamedTuple):
    """One file of a commit."""

    path: str
    """In the source; bytes that are not UTF-8 as surrogates."""
    mode: Mode | None
    """None for a submodule."""
    oid: str
    size: int
    """Bytes."""


def parse_tree(listing: bytes) -> Iterator[TreeEntry]:
    """Read `git ls-tree -r -l -z`."""
    for line in listing.split(b"\0"):
        if line:
            words, _, path = line.partition(b"\t")
            mode, kind, oid, size = words.split()
            yield TreeEntry(
                path.decode(errors="surrogateescape"),
                _mode(mode) if kind == b"blob" else None,
                oid.decode(),
                int(size) if size.isdigit() else 0,
            )


def parse_log(log: bytes) -> tuple[Commit, ...]:
    """Read `git log --reverse --topo-order --sparse --raw -z -M --format=LOG_FORMAT`, parents first.

    Paths become those of the installation; what is not installed is left out.
    """
    commits: list[Commit] = []
    places: dict[bytes, str | None] = {}
    number: dict[str, int] = {}
    oid, parent = "", -1
    changes: list[Change] = []
    renames: list[Rename] = []

    def place(path: bytes) -> str | None:
        if path not in places:
            try:
                places[path] = installed_path(path.decode())
            except UnicodeDecodeError:
                places[path] = None
        return places[path]

    def finish() -> None:
        if oid:
            number[oid] = len(commits)
            commits.append(Commit(oid, parent, tuple(changes), tuple(renames)))

    words = iter(log.split(b"\0"))
    for word in words:
        word = word.lstrip(b"\n")
        if word.startswith(b"\x01"):
            finish()
            oid, *parents = word[1:].decode().split()
            parent = number.get(parents[0], -1) if parents else -1
            changes, renames = [], []
        elif word:
            old_mode, new_mode, old, new, status = word[1:].split()
            path = place(next(words))
            if status[:1] in b"RC":
                former, path = path, place(next(words))
                if status[:1] == b"R" and former is not None:
                    changes.append(Change(former, old.decode(), None, _mode(old_mode)))
                if path is not None:
                    changes.append(Change(path, None, new.decode(), _mode(new_mode)))
                    if former is not None:
                        renames.append(Rename(former, path))
            elif path is not None:
                gone, added = status == b"D", status == b"A"
                changes.append(
                    Change(
                        path,
                        None if added else old.decode(),
                        None if gone else new.decode(),
                        _mode(old_mode if gone else new_mode),
                    )
                )
    finish()
    return tuple(commits)


def parse_status(listing: bytes) -> Iterator[str]:
    """Read `git status --porcelain -z`: the paths that are not as committed, or not committed."""
    words = iter(listing.split(b"\0"))
    for word in words:
        if word:
            if word[:1] in b"RC":
                next(words)
            yield word[3:].decode(errors="backslashreplace")


def _mode(mode: bytes) -> Mode:
    # Trees of long ago have 100664 and the like; git itself looks at the owner's bit only.
    number = int(mode, 8)
    if number & 0o170000 == 0o120000:
        return "120000"
    return "100755" if number & 0o100 else "100644"
