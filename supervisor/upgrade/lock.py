"""`.upgrade-lock`: one upgrade or rollback of an installation at a time, across processes.

A held flock is the lock; the words in the file are for people, and for whoever is refused.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio.to_thread
import msgspec
import psutil

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import LOCK
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.layout import Layout, standing
from mcpkeep.supervisor.writer_lock import hold, is_running, is_same

__all__ = ["HeldLock", "LockOwner"]

# What a file system without flock answers.
_NO_FLOCK = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK}


class LockOwner(msgspec.Struct, frozen=True):
    """What stands in the file."""

    session_id: str
    started_at: datetime
    pid: int
    create_time: float
    """Seconds since the epoch; with the pid it names one process."""


class HeldLock:
    """The lock of one installation, as this process sees it; the UpgradeLock of the upgrade actor.

    For one thread at a time.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        calls: FileCalls = OS_CALLS,
    ) -> None:
        self._layout = layout
        self._now = now
        self._calls = calls
        self._fd: int | None = None
        self._session_id = ""

    @property
    def held_for(self) -> str | None:
        """The session that this process holds it for; None also where somebody removed the file."""
        return self._session_id if self._fd is not None and is_same(self._fd, self._path) else None

    async def acquire(self, session_id: str) -> None:
        """Take it for the session: from nobody, from a dead owner, or from itself. Raises UpgradeFailed."""
        await anyio.to_thread.run_sync(self.take, session_id)

    async def release(self) -> None:
        """Let go, and remove the file; harmless where it is not held."""
        await anyio.to_thread.run_sync(self.let_go)

    def take(self, session_id: str) -> None:
        """acquire(), for those who are in a thread already."""
        held = self.held_for
        if held == session_id:
            return
        if held is not None:
            raise self._refusal()
        self._close()
        try:
            self._fd = hold(self._path, lambda: self._word(session_id))
        except OSError as e:
            if e.errno in _NO_FLOCK:
                raise UpgradeFailed(
                    f"the file system of {str(self._path.parent)!r} has no flock: {e.strerror}",
                    remediation="upgrade where the installation really lies, on a local disk",
                ) from e
            raise UpgradeFailed(
                f"{str(self._path)!r} cannot be made: {e.strerror}",
                remediation="make the installation's folder writable, with room on its disk",
            ) from e
        if self._fd is None:
            raise self._refusal()
        self._session_id = session_id

    def let_go(self) -> None:
        """release(), for those who are in a thread already. Raises UpgradeFailed where the file stays."""
        try:
            # While it is held: whoever opened it meanwhile sees that it is gone, and makes a new one.
            if self.held_for is not None:
                self._calls.unlink(self._path)
        except OSError as e:
            self._name_nobody()
            raise UpgradeFailed(
                f"{str(self._path)!r} cannot be removed: {e.strerror}",
                remediation="make the installation's folder writable; the lock itself is free",
            ) from e
        finally:
            self._close()

    def leave(self) -> None:
        """Let go where it is still held, and leave the file, for the next start to look into."""
        self._name_nobody()
        self._close()

    def owner(self) -> Mapping[str, object] | None:
        """Who holds it, or died with it: session_id, started_at, pid, alive; None where there is no file."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        try:
            owner = msgspec.json.decode(data, type=LockOwner)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {"session_id": "", "started_at": "", "pid": 0, "alive": False}
        return {
            "session_id": owner.session_id,
            "started_at": _iso(owner.started_at),
            "pid": owner.pid,
            "alive": is_running(owner.pid, owner.create_time),
        }

    @property
    def _path(self) -> Path:
        return standing(self._layout.base) / LOCK

    def _word(self, session_id: str) -> bytes:
        owner = LockOwner(session_id, self._now(), os.getpid(), psutil.Process().create_time())
        return msgspec.json.encode(owner) + b"\n"

    def _refusal(self) -> UpgradeFailed:
        owner = self.owner() or {}
        who = f"session {owner.get('session_id')!r}, pid {owner.get('pid')}, since {owner.get('started_at')}"
        return UpgradeFailed(
            f"another upgrade or rollback holds the lock: {who}",
            remediation="finish that one, or give it up with `mcpkeep upgrade --abort`, or with "
            "pos_workflow's rollback to phase 0",
            details=owner,
        )

    def _name_nobody(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)

    def _close(self) -> None:
        fd, self._fd, self._session_id = self._fd, None, ""
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
