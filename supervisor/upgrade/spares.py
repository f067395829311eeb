"""Spare copies of what a change took out of the live tree, so that the way back waits for no copying.

    changes/<session>/old/      the former files themselves: whoever has one open still writes into it
                      spare/    copies of them, one of which a rollback brings in by a rename

They only save time: where one is missing, or is not as its original is, the rollback makes a copy.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from mcpkeep.supervisor.durable import FileCalls
from mcpkeep.supervisor.upgrade.live_files import copy_file, make_missing
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.steps import sync_folders

__all__ = ["drop_unfinished", "find_spare", "is_spare", "keep_spares"]

_OLD = "old"
_SPARE = "spare"
_UNFINISHED = "spare.tmp"


def keep_spares(change: Path, paths: Iterable[str], *, calls: FileCalls) -> None:
    """Copy these of the change's old files, durably and all at once; the bytes of both are on disk on return.

    May be called again. Raises OSError; then there are none.
    """
    if (change / _SPARE).is_dir():
        return
    drop_unfinished(change, calls=calls)
    try:
        _copy_all(change, [path for path in paths if _is_file(change / _OLD / path)], calls)
    except OSError:
        with contextlib.suppress(OSError):
            drop_unfinished(change, calls=calls)
            remove_tree(change / _SPARE, calls=calls)
        raise


def drop_unfinished(change: Path, *, calls: FileCalls) -> None:
    """Remove what keep_spares() left where it was cut short. Raises OSError."""
    remove_tree(change / _UNFINISHED, calls=calls)


def _copy_all(change: Path, paths: Sequence[str], calls: FileCalls) -> None:
    begun = change / _UNFINISHED
    make_missing(begun, calls=calls, synced=False)
    for path in paths:
        make_missing((begun / path).parent, calls=calls, synced=False)
        copy_file(change / _OLD / path, begun / path, calls=calls, synced=False)
    for path in paths:
        calls.fsync_file(begun / path)
        calls.fsync_file(change / _OLD / path)
    # What a rollback that is taken back puts here again may be the user's only copy: the names are to last.
    above = {folder for path in paths for folder in Path(path).parents}
    sync_folders({begun / folder for folder in above}, calls=calls)
    calls.rename(begun, change / _SPARE)
    calls.fsync_folder(change)


def find_spare(changes: Path, old: Path) -> Path | None:
    """The spare copy of an old file; None where there is none, as of a file that is of no change."""
    if not old.is_relative_to(changes):
        return None
    session, _, *path = old.relative_to(changes).parts
    spare = changes.joinpath(session, _SPARE, *path)
    return spare if is_spare(spare, old) else None


def is_spare(spare: Path, old: Path) -> bool:
    """Whether the file is a copy of the old one still: whoever has that open may have written into it."""
    try:
        copy, copied = os.lstat(spare), os.lstat(old)
    except (FileNotFoundError, NotADirectoryError):
        return False
    # After a power loss, what was brought in may be known by this name, too.
    alone = stat.S_ISREG(copy.st_mode) and copy.st_nlink == 1
    return alone and _seen(copy) == _seen(copied)


def _seen(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mode, found.st_mtime_ns


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
