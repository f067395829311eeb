"""A change from one release to another: what it wrote over what, so that it can be merged back."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from mcpkeep.protocol.upgrade.journal import Kind

__all__ = ["ChangeOrder", "ChangeRecord", "ChangedFile", "RollbackPlan", "comes_first"]


class ChangedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file before and after; None is absent. SHA-256 of the bytes, or of a link's target."""

    old: str | None = None
    new: str | None = None


class ChangeOrder(msgspec.Struct, frozen=True):
    """What the commit is to do; the staged files lie under `staged_root` by their own paths, or are to be."""

    session_id: str
    kind: Kind
    from_release: str | None
    to_release: str
    staged_root: str
    """Relative to the installation's folder; usually `.mcpkeep/staging/<session>/.praxis-os`."""
    written: tuple[str, ...]
    removed: tuple[str, ...]
    expected: Mapping[str, str | None]
    """SHA-256 of each live file that is to be written or removed, None for absent: what the plan saw."""
    swap_index: bool
    """Whether `staged_root`'s index takes the live one's place; the live one goes to the old release."""
    backup_id: str | None = None
    undoes: tuple[str, ...] = ()
    """The sessions of the changes that a rollback takes back, oldest first."""
    merged: tuple[str, ...] = ()
    """Of what a rollback writes: what has edits of the user's in it."""
    kept: tuple[str, ...] = ()
    """What a rollback leaves as the user has it."""
    sources: Mapping[str, str] = {}
    """By path: the file, relative to the installation's folder, that is staged when this is prepared."""
    spares: Mapping[str, str] = {}
    """Of those, by path: the copy of it that is there already, and is brought in instead of a staged one."""


class ChangeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """changes/<session>/change.json, with the bytes under old/ and new/ beside it."""

    schema: int
    session_id: str
    kind: Kind
    at: datetime
    from_release: str | None
    to_release: str
    backup_id: str | None
    swapped_index: bool
    files: Mapping[str, ChangedFile]


def comes_first(path: str) -> bool:
    """Whether a server needs the file to start: it is swapped before that, all others when it is up."""
    return path.startswith("scripts/")


class RollbackPlan(msgspec.Struct, frozen=True):
    """What going back comes to, staged and ready to be committed; or as much of it as comes first."""

    order: ChangeOrder
    restored: tuple[str, ...]
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    """Edited since, or overlapping: the user's stays."""
    kept_aside: Mapping[str, str]
    """By path: where the restored version lies that gave way to the user's."""
