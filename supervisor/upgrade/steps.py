"""Performs the steps of a change and takes them back, from whatever an interruption left.

Only renames touch the live folders, never whole ones of them, so that the old server's watcher sleeps on.
The folders to be synced are handed back: one fsync each for a whole group.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import assert_never

from mcpkeep.protocol.upgrade.step import (
    Found,
    Link,
    Place,
    PointLink,
    PutFile,
    Rename,
    RenameInstallation,
    Step,
    SwapFolder,
    TakeFile,
    Unlink,
    next_move,
    next_move_back,
    temporary,
)
from mcpkeep.supervisor.durable import NO_LINKS, OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.layout import standing
from mcpkeep.supervisor.upgrade.live_files import make_missing, remove_tree

__all__ = ["perform", "sync_folders", "undo"]


def perform(step: Step, base: Path, *, calls: FileCalls = OS_CALLS) -> set[Path]:
    """Perform the step, or what is left of it; the folders that were touched. Raises OSError."""
    match step:
        case PutFile():
            return _move(step, base, calls, back=False)
        case TakeFile():
            touched = _move(step, base, calls, back=False)
            return touched | _remove_emptied(base, step.path, calls)
        case SwapFolder():
            return _swap(step, standing(base), calls)
        case PointLink():
            return _point(standing(base) / step.path, step.target, calls)
        case RenameInstallation():
            return _rename_installation(base, step.old, step.new, calls)
        case _:
            assert_never(step)


def undo(step: Step, base: Path, *, calls: FileCalls = OS_CALLS) -> set[Path]:
    """Take the step back, however much of it was performed; the folders that were touched. Raises OSError."""
    match step:
        case PutFile():
            touched = _move(step, base, calls, back=True)
            for folder in reversed(step.folders):
                touched |= _remove_empty(standing(base) / folder, calls)
            return touched
        case TakeFile():
            return _move(step, base, calls, back=True)
        case SwapFolder():
            return _swap_back(step, standing(base), calls)
        case PointLink():
            return _point(standing(base) / step.path, step.former, calls)
        case RenameInstallation():
            return _rename_back(base, step.old, step.new, calls)
        case _:
            assert_never(step)


def sync_folders(folders: set[Path], *, calls: FileCalls = OS_CALLS) -> None:
    """Bring the entries of those that are still there to the disk. Raises OSError."""
    for folder in sorted(folders):
        if folder.is_dir():
            calls.fsync_folder(folder)


# Files


def _move(step: PutFile | TakeFile, base: Path, calls: FileCalls, *, back: bool) -> set[Path]:
    at = _places(step, standing(base))
    rule = next_move_back if back else next_move
    touched: set[Path] = set()
    while True:
        found = Found(*(_identity(at[place]) if place in at else None for place in Place))
        if found.live == _FOLDER:
            if not back:
                raise IsADirectoryError(errno.EISDIR, "a folder stands where a file is to be", str(step.path))
            return _set_aside(step, at, calls)  # What the user made of it stays.
        move = rule(step, found)
        match move:
            case None:
                return touched
            case Unlink():
                calls.unlink(at[move.place])
                touched.add(at[move.place].parent)
                continue
            case Rename():
                touched |= make_missing(at[move.target].parent, calls=calls)
                calls.rename(at[move.source], at[move.target])
            case Link():
                touched |= make_missing(at[move.target].parent, calls=calls)
                try:
                    calls.link(at[move.source], at[move.target])
                except OSError as e:
                    # On the way back from a full disk, too: a rename needs no room.
                    if e.errno not in NO_LINKS and not (back and e.errno in _FULL):
                        raise
                    calls.rename(at[move.source], at[move.target])
                # The live one is replaced next: not before its other name is sure to outlast a power loss.
                calls.fsync_folder(at[move.target].parent)
            case _:
                assert_never(move)
        touched |= {at[move.source].parent, at[move.target].parent}


def _set_aside(step: PutFile | TakeFile, at: dict[Place, Path], calls: FileCalls) -> set[Path]:
    arriving = Place.STAGED if isinstance(step, PutFile) else Place.KEPT
    for place, target in ((Place.TEMP, at[arriving]), (Place.BACK, at[Place.KEPT])):
        if os.path.lexists(at[place]):
            make_missing(target.parent, calls=calls)
            calls.rename(at[place], target)
    return {path.parent for path in at.values()}


def _places(step: PutFile | TakeFile, base: Path) -> dict[Place, Path]:
    live = base / step.path
    places = {
        Place.TEMP: live.with_name(temporary(step.number, Place.TEMP)),
        Place.LIVE: live,
        Place.KEPT: base / step.kept,
        Place.BACK: live.with_name(temporary(step.number, Place.BACK)),
    }
    return {Place.STAGED: base / step.staged, **places} if isinstance(step, PutFile) else places


_FOLDER = "folder"
_FULL = {errno.ENOSPC, errno.EDQUOT}


def _identity(path: Path) -> object | None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _FOLDER if stat.S_ISDIR(found.st_mode) else (found.st_dev, found.st_ino)


def _remove_emptied(base: Path, path: str, calls: FileCalls) -> set[Path]:
    """Remove the folders above `path` that are empty, from the innermost out, but for the outermost."""
    touched: set[Path] = set()
    folder = Path(path).parent
    while len(folder.parts) > 1:
        removed = _remove_empty(standing(base) / folder, calls)
        if not removed:
            break
        touched |= removed
        folder = folder.parent
    return touched


def _remove_empty(folder: Path, calls: FileCalls) -> set[Path]:
    if folder.is_symlink() or not folder.is_dir() or os.listdir(folder):
        return set()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            calls.rmdir(folder)
        except OSError as e:
            if e.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return set()
    return {folder.parent}


# Folders


def _swap(step: SwapFolder, base: Path, calls: FileCalls) -> set[Path]:
    path, staged, kept = _folders(step, base)
    if kept is not None and not _exists(kept):
        # The staged one comes in next: not before this is sure to outlast a power loss.
        _rename_folder(path, kept, calls)
    if staged is not None and _exists(staged):
        remove_tree(path, calls=calls)
        _rename_folder(staged, path, calls)
    return {place.parent for place in (path, staged, kept) if place is not None}


def _swap_back(step: SwapFolder, base: Path, calls: FileCalls) -> set[Path]:
    path, staged, kept = _folders(step, base)
    if staged is not None and not _exists(staged) and _exists(path):
        _rename_folder(path, staged, calls)
    if kept is not None and _exists(kept):
        remove_tree(path, calls=calls)
        _rename_folder(kept, path, calls)
    return {place.parent for place in (path, staged, kept) if place is not None}


def _folders(step: SwapFolder, base: Path) -> tuple[Path, Path | None, Path | None]:
    staged, kept = (base / name if name is not None else None for name in (step.staged, step.kept))
    return base / step.path, staged, kept


def _rename_folder(source: Path, target: Path, calls: FileCalls) -> None:
    if not _exists(source):
        return
    make_missing(target.parent, calls=calls)
    calls.rename(source, target)
    calls.fsync_folder(target.parent)
    if source.parent != target.parent:
        calls.fsync_folder(source.parent)


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


# Links


def _point(path: Path, target: str | None, calls: FileCalls) -> set[Path]:
    temp = path.with_name(f".mcpkeep-{path.name}.tmp")
    if os.path.lexists(temp):
        calls.unlink(temp)
    if os.path.lexists(path) and not path.is_symlink():
        raise FileExistsError(errno.EEXIST, "what stands there is not a symbolic link", str(path))
    if target is None:
        if path.is_symlink():
            calls.unlink(path)
    elif not path.is_symlink() or os.readlink(path) != target:
        make_missing(path.parent, calls=calls)
        calls.symlink(target, temp)
        calls.rename(temp, path)
    return {path.parent}


def _rename_installation(base: Path, old: str, new: str, calls: FileCalls) -> set[Path]:
    before, after = base.parent / old, base.parent / new
    if not os.path.lexists(after):
        calls.rename(before, after)
        # Its link would else stand alone after a power loss.
        calls.fsync_folder(base.parent)
    if not os.path.lexists(before):
        calls.symlink(new, before)
    return {base.parent}


def _rename_back(base: Path, old: str, new: str, calls: FileCalls) -> set[Path]:
    before, after = base.parent / old, base.parent / new
    if os.path.lexists(after) and (before.is_symlink() or not os.path.lexists(before)):
        if before.is_symlink():
            calls.unlink(before)
        calls.rename(after, before)
        calls.fsync_folder(base.parent)
    return {base.parent}
