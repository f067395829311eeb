"""The vector index as a change moves it: what the running server still reads comes along."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from mcpkeep.supervisor.durable import NO_LINKS, OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.live_files import make_missing

__all__ = ["lend", "take_back_lent", "to_be_lent"]

# LanceDB's: what a reader of an older version of the table opens. Its manifests must stay the new one's.
_READ = ("data", "_deletions")


def to_be_lent(old: Path, new: Path) -> tuple[str, ...]:
    """What the running server may still read and `new` lacks, by its path in both: of tables that both have
    their data, others whole. Raises OSError.
    """
    return tuple(path for path in _old_files(old, new) if not os.path.lexists(new / path))


def lend(old: Path, new: Path, paths: Sequence[str], *, calls: FileCalls = OS_CALLS) -> None:
    """Hard-link them from `old` into `new`, as far as there are links and they still are there.

    Not durably: no server runs after a power loss. May be called again. Raises OSError.
    """
    left: list[str] = []
    for path in paths:
        if os.path.lexists(new / path):
            continue
        make_missing((new / path).parent, calls=calls, synced=False)
        try:
            calls.link(old / path, new / path)
        except FileNotFoundError:  # the server that runs has just compacted its table
            left.append(path)
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
            left.append(path)
    _drop_empty(new, left, calls)  # an empty folder would be taken for a table


def take_back_lent(index: Path, paths: Sequence[str], *, calls: FileCalls = OS_CALLS) -> None:
    """Remove what was linked for a server that has ended, and the folders that only that was in."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            calls.unlink(index / path)
    _drop_empty(index, paths, calls)


def _drop_empty(index: Path, paths: Sequence[str], calls: FileCalls) -> None:
    for folder in sorted({folder for path in paths for folder in Path(path).parents}, reverse=True):
        if folder != Path() and (index / folder).is_dir() and not os.listdir(index / folder):
            calls.rmdir(index / folder)


def _old_files(old: Path, new: Path) -> list[str]:
    tables = sorted(entry.name for entry in os.scandir(old) if entry.is_dir()) if old.is_dir() else []
    shared = [table for table in tables if (new / table).is_dir()]
    folders = [old / table / part for table in shared for part in _READ]
    folders += [old / table for table in tables if table not in shared]
    return sorted(
        os.path.relpath(os.path.join(at, name), old)
        for folder in folders
        for at, _, names in os.walk(folder)
        for name in names
        if not os.path.islink(os.path.join(at, name))
    )
