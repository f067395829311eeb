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

from mcpkeep.protocol.upgrade.places import BASES
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
from mcpkeep.supervisor.exchange import NO_EXCHANGE
from mcpkeep.supervisor.upgrade.folder_swap import swap, swap_back
from mcpkeep.supervisor.upgrade.layout import standing
from mcpkeep.supervisor.upgrade.live_files import make_missing

__all__ = ["perform", "sync_folders", "sync_touched", "undo"]


def perform(step: Step, base: Path, *, calls: FileCalls = OS_CALLS) -> set[Path]:
    """Perform the step, or what is left of it; the folders that were touched. Raises OSError."""
    match step:
        case PutFile():
            return _move(step, base, calls, back=False)
        case TakeFile():
            touched = _move(step, base, calls, back=False)
            return touched | _remove_emptied(base, step.path, calls)
        case SwapFolder():
            return swap(step, standing(base), calls)
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
            if step.folders:  # What was edited there is sure to be elsewhere before they go.
                sync_folders(touched, calls=calls)
            for folder in reversed(step.folders):
                touched |= _remove_empty(standing(base) / folder, calls)
            return touched
        case TakeFile():
            return _move(step, base, calls, back=True)
        case SwapFolder():
            return swap_back(step, standing(base), calls)
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


def sync_touched(folders: set[Path], base: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """The same of folders of an installation that the steps may have renamed meanwhile."""
    now = standing(base)
    names = {base.with_name(name) for name in BASES} | {base}
    moved = {
        next((now / folder.relative_to(name) for name in names if folder.is_relative_to(name)), folder)
        for folder in folders
    }
    sync_folders(moved, calls=calls)


# Files


def _move(step: PutFile | TakeFile, base: Path, calls: FileCalls, *, back: bool) -> set[Path]:
    at = _places(step, standing(base))
    rule = next_move_back if back else next_move
    touched: set[Path] = set()
    stand = {place: _identity(path) for place, path in at.items()}
    while True:
        found = Found(*(stand.get(place) for place in Place))
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
                stand[move.place] = None
            case Rename():
                touched |= make_missing(at[move.target].parent, calls=calls)
                calls.rename(at[move.source], at[move.target])
                touched |= {at[move.source].parent, at[move.target].parent}
                stand[move.source], stand[move.target] = None, _identity(at[move.target])
            case Link():
                touched |= make_missing(at[move.target].parent, calls=calls)
                try:
                    calls.link(at[move.source], at[move.target])
                except OSError as e:
                    # On the way back from a full disk, too: a rename needs no room.
                    if e.errno not in NO_LINKS and not (back and e.errno in _FULL):
                        raise
                    calls.rename(at[move.source], at[move.target])
                    stand[move.source] = None
                stand[move.target] = _identity(at[move.target])
                # The live one is replaced next: not before its other name is sure to outlast a power loss.
                calls.fsync_folder(at[move.target].parent)
                touched |= {at[move.source].parent, at[move.target].parent}
            case _:
                assert_never(move)
        # The user may save it at any moment, and what was moved may be that; the rest is the step's own.
        stand[Place.LIVE] = _identity(at[Place.LIVE])


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
    if _is_real(before) and (not os.path.lexists(after) or _leads_to(after, new)):
        if not os.path.lexists(after):
            calls.symlink(new, after)  # To itself, until it has the old name.
        try:
            calls.exchange(before, after)
        except OSError as e:
            if e.errno not in NO_EXCHANGE:
                raise
            calls.unlink(after)
            calls.rename(before, after)
        # Its link would else stand alone after a power loss.
        calls.fsync_folder(base.parent)
    if not os.path.lexists(before):
        calls.symlink(new, before)
    return {base.parent}


def _rename_back(base: Path, old: str, new: str, calls: FileCalls) -> set[Path]:
    before, after = base.parent / old, base.parent / new
    if _is_real(after) and _leads_to(before, new):
        try:
            calls.exchange(before, after)
        except OSError as e:
            if e.errno not in NO_EXCHANGE:
                raise
            calls.unlink(before)
            calls.rename(after, before)
        calls.fsync_folder(base.parent)
    elif _is_real(after) and not os.path.lexists(before):
        calls.rename(after, before)
        calls.fsync_folder(base.parent)
    if _is_real(before) and _leads_to(after, new):
        calls.unlink(after)
    return {base.parent}


def _is_real(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir()


def _leads_to(path: Path, text: str) -> bool:
    return path.is_symlink() and os.readlink(path) == text
