"""The backup actor: makes, verifies, lists, restores and removes backups, one at a time, in a thread."""

import errno
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar, assert_never

import anyio
import anyio.from_thread
import anyio.to_thread

from mcpkeep.actors.actor import Actor, Envelope
from mcpkeep.protocol.upgrade.backup import (
    BackupDone,
    BackupInfo,
    BackupMessage,
    BackupRefused,
    CreateBackup,
    ListBackups,
    RemovedBackups,
    RemoveOldBackups,
    RestoreBackup,
    RestoreDone,
    Verification,
    VerifyBackup,
)
from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["BackupActor", "BackupStore"]

T = TypeVar("T")


class BackupStore(Protocol):
    """Where backups are kept. Blocking; called in a thread, one call at a time.

    Each raises UpgradeFailed or OSError where it was refused or failed. `check` is to be called between
    files: what it raises must end the call, with nothing left of what was begun.
    """

    def create(
        self,
        session_id: str,
        *,
        release: str | None,
        requirements: str,
        now: datetime,
        check: Callable[[], None],
    ) -> BackupDone: ...

    def verify(self, backup_id: str, *, check: Callable[[], None]) -> Verification: ...

    def backups(self) -> tuple[BackupInfo, ...]: ...

    def restore(self, backup_id: str, session_id: str, *, check: Callable[[], None]) -> RestoreDone: ...

    def remove_old(self, keep: int, *, needed: Sequence[str]) -> RemovedBackups: ...


class BackupActor(Actor[BackupMessage]):
    """Answers the questions of BackupMessage. Cancelled, it leaves after the file that it is at.

    Its inbox holds 256 questions. An asker that gives up does not end the work that it asked for.
    """

    def __init__(self, store: BackupStore, *, now: Callable[[], datetime]) -> None:
        """`now` dates and names the backups; it answers aware times."""
        super().__init__("backup")
        self._store = store
        self._now = now
        self._limiter = anyio.CapacityLimiter(1)

    async def receive(self, envelope: Envelope[BackupMessage]) -> None:
        try:
            envelope.answer(await self._answer(envelope.message))
        except UpgradeFailed as e:
            envelope.answer(BackupRefused(str(e), e.remediation))
        except OSError as e:
            envelope.answer(_refused(e))

    async def _answer(self, message: BackupMessage) -> object:
        store, check = self._store, anyio.from_thread.check_cancelled
        match message:
            case CreateBackup(session_id, release, requirements):
                now = self._now()
                return await self._run(
                    lambda: store.create(
                        session_id, release=release, requirements=requirements, now=now, check=check
                    )
                )
            case VerifyBackup(backup_id):
                return await self._run(lambda: store.verify(backup_id, check=check))
            case ListBackups():
                return await self._run(store.backups)
            case RestoreBackup(backup_id, session_id):
                return await self._run(lambda: store.restore(backup_id, session_id, check=check))
            case RemoveOldBackups(keep, needed):
                return await self._run(lambda: store.remove_old(keep, needed=needed))
            case _:
                assert_never(message)

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


_REMEDIES: tuple[tuple[frozenset[int | None], str], ...] = (
    (frozenset({errno.ENOSPC, errno.EDQUOT}), "free disk space; removing old backups is a way"),
    (frozenset({errno.EFBIG}), "move the large file out of the installation"),
    (frozenset({errno.EACCES, errno.EPERM}), "make it writable for the user who runs mcpkeep"),
    (frozenset({errno.EROFS}), "mount the file system for writing"),
    (frozenset({errno.EIO}), "look after the disk: it answers with errors"),
    (frozenset({errno.EMFILE, errno.ENFILE}), "close programs, or allow more open files"),
)


def _refused(error: OSError) -> BackupRefused:
    where = f" at {str(error.filename)!r}" if error.filename is not None else ""
    remedy = next((remedy for codes, remedy in _REMEDIES if error.errno in codes), "look after the disk")
    return BackupRefused(
        f"the backups' folder cannot be written{where}: {error.strerror}",
        f"{remedy}, then try again; nothing has changed",
    )
