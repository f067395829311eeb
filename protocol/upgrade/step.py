"""The steps by which the live tree changes: each is idempotent and undoable, and says all that it needs.

Paths are relative to the installation's folder, with `/`. A step that was cut short anywhere is carried on,
or taken back, from what is found: the rules below answer the next move until there is none.
"""

import enum
from typing import NamedTuple

import msgspec

__all__ = [
    "Found",
    "Link",
    "Move",
    "Place",
    "PointLink",
    "PutFile",
    "Rename",
    "RenameInstallation",
    "Step",
    "SwapFolder",
    "TakeFile",
    "Unlink",
    "next_move",
    "next_move_back",
    "temporary",
]


class PutFile(msgspec.Struct, frozen=True, tag="put_file"):
    """`staged` becomes `path` by renames, and never leaves it absent; what stood there is kept at `kept`."""

    number: int
    """Names its temporary files, `.mcpkeep-<number>*.tmp` in the target's own folder."""
    path: str
    staged: str
    kept: str
    creates: bool = False
    """Nothing stood at `path` when this was decided."""
    folders: tuple[str, ...] = ()
    """Those that were missing then, outermost first: taken away again with the file, where they are empty."""


class TakeFile(msgspec.Struct, frozen=True, tag="take_file"):
    """`path` goes, and is kept at `kept`; folders that it leaves empty go too, but for the outermost."""

    number: int
    path: str
    kept: str


class SwapFolder(msgspec.Struct, frozen=True, tag="swap_folder"):
    """The folder `staged` becomes `path`, and what stood there becomes `kept`; None where there is none.

    At one instant, as `swap.py` says, where the file system can. Where it cannot there is a moment without
    `path`, and what comes into being there is removed: for folders of generated data only.
    """

    path: str
    staged: str | None
    kept: str | None
    lent: tuple[str, ...] = ()
    """What is linked from `path` into `staged` first, for who still reads it; taken back with the step."""


class PointLink(msgspec.Struct, frozen=True, tag="point_link"):
    """The symbolic link `path` points at `target`, by atomic replacement; formerly at `former`, or absent."""

    path: str
    target: str
    former: str | None


class RenameInstallation(msgspec.Struct, frozen=True, tag="rename_installation"):
    """The installation's folder changes its name, beside it a link by the old one. Names, not paths."""

    old: str
    new: str


Step = PutFile | TakeFile | SwapFolder | PointLink | RenameInstallation


class Place(enum.Enum):
    """Where the files of one PutFile or TakeFile may be."""

    STAGED = "staged"
    TEMP = "temp"
    """Beside the live one, on its way: the new one of a PutFile, the old one of a TakeFile."""
    LIVE = "live"
    KEPT = "kept"
    BACK = "back"
    """Beside the live one, the old one on its way back."""


class Found(NamedTuple):
    """What was found: per place something equal for names of one and the same file, None where nothing is."""

    staged: object | None = None
    temp: object | None = None
    live: object | None = None
    kept: object | None = None
    back: object | None = None


class Rename(NamedTuple):
    """Rename; what stands at the target is replaced."""

    source: Place
    target: Place


class Link(NamedTuple):
    """Give the file a second name, durably. Where the file system has no hard links: rename it."""

    source: Place
    target: Place


class Unlink(NamedTuple):
    """Remove this name."""

    place: Place


Move = Rename | Link | Unlink


def temporary(number: int, place: Place) -> str:
    """The name of a step's temporary file."""
    return f".mcpkeep-{number}.tmp" if place is Place.TEMP else f".mcpkeep-{number}-back.tmp"


def next_move(step: PutFile | TakeFile, found: Found) -> Move | None:
    """The next move towards having performed the step; None where it has been."""
    return _put(found) if isinstance(step, PutFile) else _take(found)


def next_move_back(step: PutFile | TakeFile, found: Found) -> Move | None:
    """The next move towards having taken the step back; None where it has been, or never was performed."""
    return _put_back(found, step.creates) if isinstance(step, PutFile) else _take_back(found)


# Rename does nothing, and says nothing, where both names are of one file: each rule looks for that first.


def _put(f: Found) -> Move | None:
    if f.back is not None:
        return _away(Place.BACK, f.back, Place.KEPT, f.kept)
    if f.temp is not None:
        return _replace(Place.TEMP, f.temp, f.live, Place.KEPT, f.kept)
    if f.staged is not None:
        return Unlink(Place.STAGED) if f.staged == f.live else Rename(Place.STAGED, Place.TEMP)
    return None


def _put_back(f: Found, creates: bool) -> Move | None:
    if f.temp is not None:
        return _away(Place.TEMP, f.temp, Place.STAGED, f.staged)
    if f.back is not None:
        return _replace(Place.BACK, f.back, f.live, Place.STAGED, f.staged)
    if f.kept is not None:
        # The staged one is still there by itself: the live one is not it, and only the second name goes.
        never = f.staged is not None and f.staged != f.live and f.live is not None
        return Unlink(Place.KEPT) if never or f.kept == f.live else Rename(Place.KEPT, Place.BACK)
    if creates and f.staged is None and f.live is not None:
        return Rename(Place.LIVE, Place.TEMP)
    if creates and f.staged is not None and f.staged == f.live:
        return Unlink(Place.LIVE)
    return None


def _take(f: Found) -> Move | None:
    if f.back is not None:
        return _away(Place.BACK, f.back, Place.KEPT, f.kept)
    if f.temp is not None:
        return _away(Place.TEMP, f.temp, Place.KEPT, f.kept)
    return Rename(Place.LIVE, Place.TEMP) if f.live is not None else None


def _take_back(f: Found) -> Move | None:
    for place, file in ((Place.TEMP, f.temp), (Place.BACK, f.back)):
        if file is not None:
            if f.live is None:
                return Rename(place, Place.LIVE)
            return Unlink(place) if file == f.live else _away(place, file, Place.KEPT, f.kept)
    if f.kept is not None and f.kept == f.live:
        return Unlink(Place.KEPT)
    if f.kept is not None and f.live is None:
        return Rename(Place.KEPT, Place.BACK)
    return None  # Where the user made a new one, that stays.


def _away(place: Place, file: object, target: Place, there: object | None) -> Move:
    return Unlink(place) if file == there else Rename(place, target)


def _replace(place: Place, file: object, live: object | None, out: Place, there: object | None) -> Move:
    """Bring `file` in over the live one, which is known as `out` before it goes."""
    if file == live:
        return Unlink(place)
    if live is None or live == there:
        return Rename(place, Place.LIVE)
    return Link(Place.LIVE, out) if there is None else Unlink(out)
