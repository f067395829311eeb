"""The sessions' folder, off the event loop."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import anyio
import anyio.to_thread

from mcpkeep.actors.session import News
from mcpkeep.protocol.workflow.session import Session
from mcpkeep.protocol.workflow.snapshot import Stored
from mcpkeep.supervisor.batches import Batches
from mcpkeep.supervisor.session_store import SessionFiles

__all__ = ["ThreadedSessionStore"]

T = TypeVar("T")

_WRITERS = 2
"""Writers at once: one works while the other waits for the disk. More hinder each other and the event loop,
for each file call gives the interpreter away: 64 sessions at once took up to a third longer with 8.
"""


class ThreadedSessionStore:
    """The SessionStore of the session actor: SessionFiles in worker threads of its own."""

    def __init__(self, files: SessionFiles) -> None:
        self._files = files
        self._limiter = anyio.CapacityLimiter(_WRITERS)
        self._saves = Batches(files.save_all, threads=_WRITERS)

    async def refresh(self) -> News:
        if self._files.writing:
            return self._files.refresh()
        return await self._run(self._files.refresh)

    async def acquire(self) -> News:
        return await self._run(self._files.acquire)

    async def save(self, session: Session) -> Stored:
        return await self._saves(session)

    async def delete(self, session_id: str, *, reason: str | None, now: datetime) -> bool:
        return await self._run(lambda: self._files.delete(session_id, reason=reason, now=now))

    async def close(self) -> None:
        await self._run(self._files.close)

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)
