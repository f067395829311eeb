"""The plan of an upgrade's content: per file what stands there, what would be, and who decided."""

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

__all__ = ["Applied", "Case", "Choice", "Counts", "Decision", "Plan", "PlannedFile", "Version"]

Mode = Literal["100644", "100755", "120000"]
"""Git's file modes: plain, executable, symbolic link (its content is the target)."""


class Version(msgspec.Struct, frozen=True):
    """One state of one file."""

    oid: str
    """Git object id of the bytes as they are."""
    mode: Mode
    size: int
    """Bytes."""


class Case(enum.Enum):
    """What is to be done with a file; the contract's nine cases, two of them in two shapes."""

    UNCHANGED = "unchanged"
    UPDATE = "update"
    KEEP = "keep"
    """Edited by the user, unchanged upstream, or removed upstream: the user's stays."""
    MERGE = "merge"
    CONFLICT = "conflict"
    CONVERGED = "converged"
    ADD = "add"
    STAYS_DELETED = "stays_deleted"
    REMOVE = "remove"


_CHANGING = frozenset({Case.UPDATE, Case.MERGE, Case.CONFLICT, Case.ADD, Case.REMOVE})


class Choice(enum.Enum):
    """How a conflict is decided."""

    KEEP = "keep"
    TAKE = "take"
    MERGE = "merge"


class Decision(msgspec.Struct, frozen=True):
    """A conflict's decision, and who made it."""

    choice: Choice
    by: str
    """Such as `user`, `resolve`, `--on-conflict keep`, or `default`."""
    text: str | None = None
    """With MERGE: the whole file."""

    @property
    def asked(self) -> bool:
        """Whether somebody was asked for it, rather than a default."""
        return not self.by.startswith("--on-conflict")


class PlannedFile(msgspec.Struct, frozen=True):
    """One file of the plan."""

    path: str
    """Relative to the installation's folder, with `/`."""
    case: Case
    local: Version | None = None
    base: Version | None = None
    upstream: Version | None = None
    merged: Version | None = None
    """With MERGE: what it comes to."""
    renamed_from: str | None = None
    """The installed path that upstream renamed to this one; it goes away where this is written."""
    reason: str = ""
    """In a few words for people, such as `edited by you; upstream changed other lines`."""


class Counts(msgspec.Struct, frozen=True):
    """In the words of upstream's safe-upgrade script."""

    new_files: int = 0
    updated_files: int = 0
    """Updated and merged."""
    unchanged_files: int = 0
    conflicts: int = 0
    local_only: int = 0
    """The user's own that stay: edited, kept, or deleted."""
    removed_files: int = 0


class Plan(msgspec.Struct, frozen=True):
    """All that an upgrade would do to the files, and what it was made of."""

    plan_id: str
    digest: str
    """SHA-256 over the source's commit and every local file's version: another digest, a stale plan."""
    source_path: str
    source_commit: str
    source_version: str
    installed_commit: str | None
    """The commit that most unedited files agree on; None where no file is of this history."""
    made_at: datetime
    files: tuple[PlannedFile, ...]
    """Sorted by path; every file that is installed under a part of the source, or would be."""
    warnings: tuple[str, ...] = ()
    installed_version: str | None = None
    """What the source's repository calls that commit, such as its tag."""

    @property
    def changes(self) -> bool:
        """Whether any file is to be another one, or may be."""
        return any(file.case in _CHANGING for file in self.files)

    @property
    def conflicts(self) -> tuple[PlannedFile, ...]:
        """The files that need a decision."""
        return tuple(file for file in self.files if file.case is Case.CONFLICT)

    def counts(self) -> Counts:
        """How many files of each kind."""
        cases = [file.case for file in self.files]
        return Counts(
            new_files=cases.count(Case.ADD),
            updated_files=cases.count(Case.UPDATE) + cases.count(Case.MERGE),
            unchanged_files=cases.count(Case.UNCHANGED) + cases.count(Case.CONVERGED),
            conflicts=cases.count(Case.CONFLICT),
            local_only=cases.count(Case.KEEP) + cases.count(Case.STAYS_DELETED),
            removed_files=cases.count(Case.REMOVE),
        )


class Applied(msgspec.Struct, frozen=True):
    """What was done of a plan in staging: the difference between the live tree and the staged one."""

    written: tuple[str, ...]
    """Paths whose staged file is to replace, or be added to, the live one."""
    removed: tuple[str, ...]
    """Paths that are to go from the live tree."""
    new_files: int
    updated_files: int
    conflicts_resolved: int
    decisions: Mapping[str, Decision]
    """By path, for each conflict."""
    kept_aside: Mapping[str, str]
    """By path: where the side not taken lies, relative to the installation's folder."""
