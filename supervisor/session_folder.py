"""The names of a session's files in their folder, what stands there, and how one is read."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from mcpkeep.supervisor.durable import Stamp, stamp_of

__all__ = [
    "Listing",
    "current_file",
    "differs",
    "list_sessions",
    "previous_file",
    "read_stamped",
    "session_of",
    "tombstone",
]

_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(\.json|\.json\.previous|\.deleted)")


class Listing(NamedTuple):
    """What a folder holds of sessions, by their ids."""

    current: dict[str, os.DirEntry[str]]
    previous: set[str]
    deleted: set[str]


def current_file(folder: Path, session_id: str) -> Path:
    return folder / f"{session_id}.json"


def previous_file(folder: Path, session_id: str) -> Path:
    return folder / f"{session_id}.json.previous"


def tombstone(folder: Path, session_id: str) -> Path:
    return folder / f"{session_id}.deleted"


def session_of(name: str) -> tuple[str, str] | None:
    """The session's id and the rest of a file's name; None where it is no session's."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match is not None else None


def list_sessions(folder: Path) -> Listing:
    """Look what is there. Raises OSError."""
    listing = Listing({}, set(), set())
    with os.scandir(folder) as entries:
        for entry in entries:
            if (named := session_of(entry.name)) is None:
                continue
            session_id, kind = named
            if kind == ".json":
                listing.current[session_id] = entry
            elif kind == ".deleted":
                listing.deleted.add(session_id)
            else:
                listing.previous.add(session_id)
    return listing


def read_stamped(path: Path) -> tuple[bytes, Stamp]:
    """A file's bytes, and the stamp of the very file that they are from. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        stamp = stamp_of(fd)
        assert stamp is not None
        # One byte more, to see the end in the same call.
        data = os.read(fd, stamp.size + 1)
        while len(data) < stamp.size and (more := os.read(fd, stamp.size)):
            data += more
        return data, stamp
    finally:
        os.close(fd)


def differs(entry: os.DirEntry[str], stamp: Stamp) -> bool:
    """Whether it is another file than the one of the stamp, or cannot be looked at."""
    try:
        found = entry.stat()
    except OSError:
        return True
    return (found.st_ino, found.st_mtime_ns, found.st_size) != stamp
