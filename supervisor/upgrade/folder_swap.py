"""Performs a SwapFolder step and takes it back, as `protocol/upgrade/swap.py` decides."""

import os
from pathlib import Path
from typing import assert_never

from mcpkeep.protocol.upgrade.step import SwapFolder
from mcpkeep.protocol.upgrade.swap import (
    Folders,
    MarkFolder,
    RemoveFolder,
    RenameFolder,
    Spot,
    SwapFolders,
    UnmarkFolder,
    next_swap,
    next_swap_back,
)
from mcpkeep.supervisor.durable import FileCalls
from mcpkeep.supervisor.exchange import NO_EXCHANGE
from mcpkeep.supervisor.upgrade.live_files import make_missing
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.vector_index import lend, take_back_lent

__all__ = ["MARK", "swap", "swap_back"]

MARK = ".mcpkeep-new"
"""In a folder that is on its way in or out."""


def swap(step: SwapFolder, base: Path, calls: FileCalls) -> set[Path]:
    """Perform the step, or what is left of it; the folders that were touched. Raises OSError."""
    if step.staged is not None and os.path.lexists(base / step.staged):
        lend(base / step.path, base / step.staged, step.lent, calls=calls)
    return _move(step, base, calls, back=False)


def swap_back(step: SwapFolder, base: Path, calls: FileCalls) -> set[Path]:
    """Take the step back, however much of it was performed; the folders that were touched. Raises OSError."""
    touched = _move(step, base, calls, back=True)
    if step.staged is not None:
        take_back_lent(base / step.staged, step.lent, calls=calls)
    return touched


def _move(step: SwapFolder, base: Path, calls: FileCalls, *, back: bool) -> set[Path]:
    at = {Spot.PATH: base / step.path}
    if step.staged is not None:
        at[Spot.STAGED] = base / step.staged
    if step.kept is not None:
        at[Spot.KEPT] = base / step.kept
    touched = {place.parent for place in at.values()}
    if step.staged is None:
        if step.kept is not None:
            _take_away(at[Spot.PATH], at[Spot.KEPT], calls, back=back)
        return touched
    rule = next_swap_back if back else next_swap
    exchanges = True
    while True:
        move = rule(_look(at), exchanges=exchanges and step.kept is not None)
        match move:
            case None:
                return touched
            case MarkFolder():
                calls.close(calls.create(at[move.spot] / MARK))
                calls.fsync_folder(at[move.spot])
            case UnmarkFolder():
                calls.unlink(at[move.spot] / MARK)
                calls.fsync_folder(at[move.spot])
            case SwapFolders():
                try:
                    calls.exchange(at[move.one], at[move.other])
                except OSError as e:
                    if e.errno not in NO_EXCHANGE:
                        raise
                    exchanges = False
                    continue
                for spot in (move.one, move.other):
                    calls.fsync_folder(at[spot].parent)
            case RenameFolder():
                # Where nothing is kept, what stood there is not wanted.
                target = at.get(move.target)
                if target is None:
                    remove_tree(at[move.source], calls=calls)
                else:
                    _rename(at[move.source], target, calls)
            case RemoveFolder():
                remove_tree(at[move.spot], calls=calls)
            case _:
                assert_never(move)


def _look(at: dict[Spot, Path]) -> Folders:
    there = {spot: os.path.lexists(path) for spot, path in at.items()}
    marked = next((spot for spot, path in at.items() if os.path.lexists(path / MARK)), None)
    return Folders(there[Spot.PATH], there[Spot.STAGED], there.get(Spot.KEPT, False), marked)


def _take_away(path: Path, kept: Path, calls: FileCalls, *, back: bool) -> None:
    """Where nothing takes its place."""
    if back and os.path.lexists(kept):
        remove_tree(path, calls=calls)
        _rename(kept, path, calls)
    elif not back and os.path.lexists(path) and not os.path.lexists(kept):
        _rename(path, kept, calls)


def _rename(source: Path, target: Path, calls: FileCalls) -> None:
    make_missing(target.parent, calls=calls)
    calls.rename(source, target)
    # What comes next must not outlast this at a power loss.
    calls.fsync_folder(target.parent)
    if source.parent != target.parent:
        calls.fsync_folder(source.parent)
