"""Backups: the manifest on disk, what the backup actor is asked, and what it answers."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from mcpkeep.protocol.question import Question

__all__ = [
    "BackedUpFile",
    "BackupDone",
    "BackupInfo",
    "BackupManifest",
    "BackupMessage",
    "BackupRefused",
    "CreateBackup",
    "ListBackups",
    "RemoveOldBackups",
    "RemovedBackups",
    "RestoreBackup",
    "RestoreDone",
    "Verification",
    "VerifyBackup",
]


class BackedUpFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a backup."""

    sha256: str
    """64 hex digits, of the bytes that were read from the source; of the target's text for a link."""
    size: int
    mode: int
    """Permission bits."""
    link: str | None = None
    """The target, where it is a symbolic link."""


class BackupManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MANIFEST.json: written last, so that a backup without one is not a backup."""

    schema: int
    path: str
    """The backup's folder, relative to the workspace."""
    timestamp: datetime
    session_id: str
    release: str | None
    """The release that was current then."""
    files: Mapping[str, BackedUpFile]
    """By path relative to the backup's folder, with `/`."""
    total_size: int
    left_out: tuple[str, ...]
    """What is not content, by path relative to the installation's folder."""


class BackupInfo(msgspec.Struct, frozen=True):
    """One backup in a list."""

    backup_id: str
    """Its folder's name, YYYY-MM-DD-HHMMSS, with -2, -3 ... within one second."""
    timestamp: datetime
    session_id: str
    release: str | None
    file_count: int
    total_size: int
    complete: bool
    """Whether it has a readable manifest."""


class BackupRefused(msgspec.Struct, frozen=True, tag="backup.refused"):
    """It was not done; nothing is left of the attempt."""

    reason: str
    remedy: str


class BackupDone(msgspec.Struct, frozen=True, tag="backup.done"):
    """On disk, synced."""

    backup_id: str
    manifest: BackupManifest


class Verification(msgspec.Struct, frozen=True, tag="backup.verification"):
    """Every file was read back."""

    backup_id: str
    files_checked: int
    mismatches: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """Whether every file of the manifest is there with its bytes."""
        return not self.mismatches and not self.missing


class RestoreDone(msgspec.Struct, frozen=True, tag="backup.restored"):
    """The installation's folders are as they were in the backup; files of the user carried over."""

    backup_id: str
    restored: int
    carried_over: tuple[str, ...]
    """Paths that stood in the live tree and not in the backup."""
    kept_aside: Mapping[str, str]
    """By path: where the live file's bytes lie that the restore replaced."""


class RemovedBackups(msgspec.Struct, frozen=True, tag="backup.removed"):
    """What went."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]


class CreateBackup(Question[BackupDone | BackupRefused], frozen=True, tag="backup.create"):
    """Copy the installation's content with its SHA-256 in one pass, write the manifest, sync all of it."""

    session_id: str
    release: str | None
    requirements: str
    """The text of requirements-snapshot.txt, which is put beside the content."""


class VerifyBackup(Question[Verification | BackupRefused], frozen=True, tag="backup.verify"):
    """Read all of a backup against its manifest."""

    backup_id: str


class ListBackups(Question[tuple[BackupInfo, ...]], frozen=True, tag="backup.list"):
    """All backups, newest first."""


class RestoreBackup(Question[RestoreDone | BackupRefused], frozen=True, tag="backup.restore"):
    """Put whole folders back, for a damaged tree; refused where verification fails, files named."""

    backup_id: str
    session_id: str
    """Names the folder under conflicts/ that takes what is replaced."""


class RemoveOldBackups(Question[RemovedBackups], frozen=True, tag="backup.remove_old"):
    """Remove all but the newest `keep` and those that are `needed`; incomplete ones always."""

    keep: int
    needed: tuple[str, ...] = ()


BackupMessage = CreateBackup | VerifyBackup | ListBackups | RestoreBackup | RemoveOldBackups
