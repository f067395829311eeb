"""How a folder takes another's place: the next move, from whatever an interruption left, until there is none.

`path` and `staged` exchange their names where that can be done at one instant; else `path` is renamed away
and `staged` to its place. After an exchange nothing but its content tells the new folder from the old one: a
mark inside the new one, made before and taken away after, does.
"""

import enum
from typing import NamedTuple

__all__ = [
    "Folders",
    "MarkFolder",
    "RemoveFolder",
    "RenameFolder",
    "Spot",
    "SwapFolders",
    "SwapMove",
    "UnmarkFolder",
    "next_swap",
    "next_swap_back",
]


class Spot(enum.Enum):
    """Where a folder may be."""

    PATH = "path"
    STAGED = "staged"
    KEPT = "kept"


class Folders(NamedTuple):
    """What was found: at which spots something stands, and which of them holds the mark."""

    path: bool = False
    staged: bool = False
    kept: bool = False
    marked: Spot | None = None

    @property
    def new(self) -> Spot:
        """Where the new folder is."""
        return self.marked or (Spot.STAGED if self.staged else Spot.PATH)


class MarkFolder(NamedTuple):
    """Put the mark into the folder, durably."""

    spot: Spot


class UnmarkFolder(NamedTuple):
    """Take the mark out of the folder, durably."""

    spot: Spot


class SwapFolders(NamedTuple):
    """Exchange the two names, durably."""

    one: Spot
    other: Spot


class RenameFolder(NamedTuple):
    """Rename, durably; nothing stands at the target."""

    source: Spot
    target: Spot


class RemoveFolder(NamedTuple):
    """Remove the folder with all in it."""

    spot: Spot


SwapMove = MarkFolder | UnmarkFolder | SwapFolders | RenameFolder | RemoveFolder


def next_swap(f: Folders, *, exchanges: bool) -> SwapMove | None:
    """The next move towards the new folder at `path` and the former at `kept`; None where it is so.

    `exchanges` says whether names can be exchanged here.
    """
    match f.new:
        case Spot.KEPT:
            return RenameFolder(Spot.KEPT, Spot.STAGED)
        case Spot.STAGED if f.path and not f.kept:
            if not exchanges:
                return RenameFolder(Spot.PATH, Spot.KEPT)
            return MarkFolder(Spot.STAGED) if f.marked is None else SwapFolders(Spot.STAGED, Spot.PATH)
        case Spot.STAGED:
            # What came into being there meanwhile was made by a server that found nothing.
            return RemoveFolder(Spot.PATH) if f.path else RenameFolder(Spot.STAGED, Spot.PATH)
        case Spot.PATH if f.marked is None:
            return None
        case Spot.PATH if f.staged:
            return RemoveFolder(Spot.STAGED) if f.kept else RenameFolder(Spot.STAGED, Spot.KEPT)
        case Spot.PATH:
            return UnmarkFolder(Spot.PATH)


def next_swap_back(f: Folders, *, exchanges: bool) -> SwapMove | None:
    """The next move towards the former folder at `path` and the new one at `staged`; None where it is so."""
    match f.new:
        case Spot.KEPT:
            return RenameFolder(Spot.KEPT, Spot.STAGED)
        case Spot.STAGED if f.kept:
            return RemoveFolder(Spot.PATH) if f.path else RenameFolder(Spot.KEPT, Spot.PATH)
        case Spot.STAGED:
            return None if f.marked is None else UnmarkFolder(Spot.STAGED)
        case Spot.PATH if f.staged:  # Exchanged, and no more.
            swap = SwapFolders(Spot.PATH, Spot.STAGED)
            return swap if exchanges else RenameFolder(Spot.STAGED, Spot.KEPT)
        case Spot.PATH if f.kept and f.path and exchanges:
            return MarkFolder(Spot.PATH) if f.marked is None else SwapFolders(Spot.PATH, Spot.KEPT)
        case Spot.PATH if f.path:
            return RenameFolder(Spot.PATH, Spot.STAGED)
        case Spot.PATH:
            return RenameFolder(Spot.KEPT, Spot.PATH) if f.kept else None
