"""A file that the user saved while a change was being made: what it was made from, what became of it."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.line_endings import normalised
from mcpkeep.protocol.upgrade.places import CODE_PARTS

__all__ = [
    "CodeEdited",
    "Fate",
    "LateEdit",
    "Standing",
    "is_code_path",
    "is_cut_short",
    "lacking",
    "made_from_new",
    "tell_edits",
]

Fate = Literal["merged", "apart", "kept", "deleted", "newest"]
"""`merged` with the new version; standing `apart` from it; `kept`, though the new version drops it;
`deleted`; or the `newest` edit of the new version."""

_TOLD = {
    "merged": "your edit and {version} were merged; your own text lies in {aside}",
    "apart": "yours stands; {version} lies in {aside}",
    "kept": "yours stays, though {version} does not have it",
    "deleted": "it stays deleted",
    "newest": "yours stands",
}


class LateEdit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One such file; the paths are relative to the installation's folder."""

    path: str
    fate: Fate
    aside: str | None = None
    """Where the side lies that does not stand; None where there is none."""

    def tell(self, version: str = "the new version") -> str:
        """In a sentence, without the path."""
        return _TOLD[self.fate].format(aside=self.aside, version=version)


class Standing(msgspec.Struct, frozen=True):
    """What stands where a change was made."""

    damaged: tuple[str, ...] = ()
    """Files that are neither what was installed nor a user's edit of it."""
    edits: tuple[LateEdit, ...] = ()
    """Sorted by path."""


class CodeEdited(UpgradeFailed):
    """The server's code is not the one any more that the change was made for; taken back whole."""

    def __init__(self, paths: Iterable[str]) -> None:
        names = sorted(paths)
        super().__init__(
            f"changed while the server started: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; "
            "the server would not be the one that was tried",
            remediation="upgrade again, or from phase 2: your edit is then part of what is planned and tried",
            details={"stale": names},
        )


def is_code_path(path: str) -> bool:
    """Whether this is a file of the server's code, where only versions that belong together serve."""
    return any(path.startswith(f"{part.installed}/") for part in CODE_PARTS)


def lacking(edits: Iterable[LateEdit]) -> tuple[str, ...]:
    """The paths whose files do not have in them what the change brought."""
    return tuple(edit.path for edit in edits if edit.fate in ("apart", "kept", "deleted"))


def tell_edits(edits: Iterable[LateEdit], version: str = "the new version") -> tuple[str, ...]:
    """A line for each."""
    return tuple(f"{edit.path} was changed by you meanwhile: {edit.tell(version)}" for edit in edits)


def made_from_new(found: bytes, *, former: bytes, new: bytes) -> bool:
    """Whether the text `found` is an edit of `new` rather than of `former`: fewer lines of it differ.

    Where as many do, it is not known, and False: whoever takes it for the former's loses nothing.
    """
    return _distance(found, new) < _distance(found, former)


def is_cut_short(found: bytes, new: bytes) -> bool:
    """Whether this is the beginning of `new`, as a crash or a full disk leaves it."""
    return found != new and new.startswith(found)


def _distance(one: bytes, other: bytes) -> int:
    mine, theirs = Counter(normalised(one).split(b"\n")), Counter(normalised(other).split(b"\n"))
    return (mine - theirs).total() + (theirs - mine).total()
