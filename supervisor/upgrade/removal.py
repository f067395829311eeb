"""A whole tree goes, by file calls that can be counted and recorded."""

import os
import stat
from pathlib import Path

from mcpkeep.supervisor.durable import OS_CALLS, FileCalls

__all__ = ["remove_empty", "remove_tree"]


def remove_tree(path: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Remove a folder with all in it, read-only folders too, or a file, a link, or nothing.

    Links are not followed. Raises OSError.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(found.st_mode):
        calls.unlink(path)
        return
    if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        calls.chmod(path, stat.S_IRWXU)
    with os.scandir(path) as entries:
        below = sorted(entries, key=lambda entry: entry.name)
    for entry in below:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(path / entry.name, calls=calls)
        else:
            calls.unlink(path / entry.name)
    calls.rmdir(path)


def remove_empty(folder: Path, calls: FileCalls = OS_CALLS) -> None:
    """Remove the folder if it is there and nothing is in it. Raises OSError."""
    if folder.is_dir() and next(folder.iterdir(), None) is None:
        calls.rmdir(folder)
