"""Reading a workflow's folder off the disk, never further than it may reach, and noticing when it changed.

Plain synchronous calls: a cold read of a large folder takes milliseconds.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mcpkeep.protocol.workflow.definition import DefinitionError

__all__ = ["Stamp", "WorkflowFiles", "list_folder", "read_bounded", "read_workflow", "stamp_of"]

MAX_FILE = 1024 * 1024
"""Bytes of one file; what may stand in it is bounded closer by whoever reads it."""
MAX_TOTAL = 8 * 1024 * 1024
MAX_FILES = 1_000
"""Files of one workflow; the largest seen in use has 50."""

Stamp = tuple[int, int, int, int] | None
"""Modified and changed (nanoseconds), size (bytes) and inode; None where there is nothing."""

_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # no link, and no waiting on a pipe


class WorkflowFiles:
    """What was read of one workflow's folder, with the stamps of all that was looked at."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        """By path relative to the folder, with forward slashes."""
        self.stamps: dict[str, Stamp] = {}
        """By absolute path: files and folders, those too that were missing."""
        self.error: DefinitionError | None = None
        """Set where the reading had to stop."""


def stamp_of(path: str) -> Stamp:
    """What tells whether a file or folder changed; links are followed, errors count as absence."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def list_folder(path: str, limit: int) -> list["os.DirEntry[str]"]:
    """At most `limit` entries, sorted by name; raises OSError."""
    found: list[os.DirEntry[str]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            found.append(entry)
            if len(found) >= limit:
                break
    return sorted(found, key=lambda entry: entry.name)


def read_bounded(path: str, limit: int = MAX_FILE) -> bytes:
    """A regular file's bytes, at most `limit` + 1 of them; raises OSError, also for a link or a pipe."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(descriptor)


def read_workflow(folder: str, base: str) -> WorkflowFiles:
    """Read `metadata.json` and the markdown and gates below `phases/`, two levels deep.

    `base` is the real path of the tree that no link may lead out of. Never raises for what is on the disk:
    what is wrong stands in `error`, since a file that cannot be read is not one that is not there.
    """
    found = WorkflowFiles()
    found.stamps[folder] = stamp_of(folder)
    total = 0
    try:
        for relative, path in _wanted(folder, base, found):
            data = read_bounded(path)
            found.contents[relative] = data
            total += len(data)
            if len(data) > MAX_FILE or total > MAX_TOTAL or len(found.contents) > MAX_FILES:
                raise DefinitionError(relative, f"over {MAX_FILE} bytes, or the folder over {MAX_TOTAL}")
    except DefinitionError as error:
        found.error = error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        found.error = DefinitionError(os.path.basename(folder), f"cannot be read: {reason}")
    return found


def _wanted(folder: str, base: str, found: WorkflowFiles) -> Iterator[tuple[str, str]]:
    """The files to read, relative and real; every file and folder is stamped before it is read."""
    real = _inside(folder, base, os.path.basename(folder))
    for name in ("metadata.json", "phases"):
        path = os.path.join(real, name)
        found.stamps[path] = stamp_of(path)
        if not os.path.lexists(path):
            continue
        inside = _inside(path, base, name) if os.path.islink(path) else path
        if name == "phases":
            yield from _below(inside, name, base, found, deeper=True)
        else:
            yield name, inside


def _below(
    real: str, relative: str, base: str, found: WorkflowFiles, *, deeper: bool
) -> Iterator[tuple[str, str]]:
    entries = list_folder(real, MAX_FILES + 1)
    if len(entries) > MAX_FILES:
        raise DefinitionError(relative, f"has more than {MAX_FILES} entries")
    for entry in entries:
        inner = f"{relative}/{entry.name}"
        wanted = entry.name.lower().endswith((".md", ".yaml", ".yml"))
        if entry.name.startswith(".") or not (wanted or (deeper and entry.is_dir())):
            continue  # an editor's lock is a hidden link to nowhere
        found.stamps[entry.path] = stamp_of(entry.path)
        path = _inside(entry.path, base, inner) if entry.is_symlink() else entry.path
        if wanted:
            yield inner, path
        else:
            yield from _below(path, inner, base, found, deeper=False)


def _inside(path: str, base: str, relative: str) -> str:
    """The real path; raises DefinitionError where it is not below the base."""
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(base):
        raise DefinitionError(relative, "is a link that leads out of its tree; copy the file here")
    return real
