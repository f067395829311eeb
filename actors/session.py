"""The session actor: every workflow session in memory, changed by one writer, answered once it is on disk.

The changes of one session are serial; different sessions do not wait for each other. Memory changes only
after the write is durable, and a change once begun is carried through even where its caller is cancelled.
"""

import functools
import heapq
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio
import msgspec

from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.difference import require_unchanged
from mcpkeep.protocol.workflow.refusal import NotFound, StateConflict, StorageFailed
from mcpkeep.protocol.workflow.session import (
    Session,
    SessionError,
    Status,
    Summary,
    check_session_id,
    suggest,
)
from mcpkeep.protocol.workflow.snapshot import SnapshotDamaged, Stored, read_session

__all__ = [
    "Changed",
    "Deleted",
    "News",
    "Overtaken",
    "SessionActor",
    "SessionPage",
    "SessionStore",
    "Started",
    "WriterNeeded",
]

T = TypeVar("T")

# Whoever keeps removing the lock file must not keep a call forever.
_ATTEMPTS = 3

# Sessions kept decoded: a change reads its session two or three times, and many are changed at a time.
_DECODED = 128


class News(msgspec.Struct, frozen=True):
    """What the disk holds that memory does not know yet; the first one is everything."""

    changed: Mapping[str, Stored] = {}
    removed: tuple[str, ...] = ()
    """Deleted, here or by another process."""
    blocked: Mapping[str, str] = {}
    """Sessions that are there and cannot be served, with the reason; all of them, each time."""
    warnings: tuple[str, ...] = ()
    """For people; all that hold, each time."""


class WriterNeeded(Exception):
    """The store does not hold the workspace's writer lock: acquire, and decide again."""


class Overtaken(Exception):
    """The session's file was changed by somebody else; nothing was overwritten.

    `stands` is what memory should hold now, None where it was right; the text says what happened.
    """

    def __init__(self, text: str, remediation: str, stands: Stored | None) -> None:
        super().__init__(text)
        self.remediation = remediation
        self.stands = stands


class SessionStore(Protocol):
    """Where sessions are kept. Concurrent saves of different sessions are allowed."""

    async def refresh(self) -> News:
        """What changed on disk since the last time; costs nothing while this process is the writer.

        Raises nothing: where the folder cannot be read, a warning says so, and memory stands.
        """
        ...

    async def acquire(self) -> News:
        """Become the writer, and tell what changed until then. Not called twice at a time.

        Raises:
            StateConflict: another process is; the text names it.
            StorageFailed: the folder cannot be made or locked.
        """
        ...

    async def save(self, session: Session) -> Stored:
        """Make the session durable.

        Raises:
            WriterNeeded, Overtaken: see there.
            StorageFailed: it could not be written; the old one stands.
            InvalidArgument: it is not JSON.
        """
        ...

    async def delete(self, session_id: str, *, reason: str | None, now: datetime) -> bool:
        """Delete durably and for good; whether a file was removed. Raises as save."""
        ...

    async def close(self) -> None:
        """Let another process be the writer."""
        ...


class Changed(msgspec.Struct, frozen=True):
    """A durable change; what it cleared or moved is the difference of the two."""

    before: Session
    after: Session


class Started(msgspec.Struct, frozen=True):
    session: Session
    existing: tuple[Summary, ...]
    """Unfinished sessions of the same workflow and target, the newest first."""


class Deleted(msgspec.Struct, frozen=True):
    existed: bool
    state_file_removed: bool


class SessionPage(msgspec.Struct, frozen=True):
    sessions: tuple[Summary, ...]
    """The newest first, by `last_updated`."""
    count: int
    """How many there are on all pages."""
    warnings: tuple[str, ...]


class SessionActor:
    """Holds the sessions. Call `load` once, before anything else; every method may be called concurrently.

    `seen`, where a method takes it, is the session the caller decided by: a change in between is a
    StateConflict that tells what changed. Reads see the last durable state and never wait for a write.
    """

    def __init__(
        self, *, store: SessionStore, now: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._now = now
        self._new_id = new_id
        self._sessions: dict[str, Stored] = {}
        self._news = News()
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._acquiring = anyio.Lock(fast_acquire=True)
        self._read_stored = functools.lru_cache(maxsize=_DECODED)(read_session)

    def now(self) -> datetime:
        """The clock that changes are dated by."""
        return self._now()

    async def load(self) -> None:
        """Read what the disk holds; what cannot be read is told in the warnings of `list`."""
        await self._refresh()

    async def close(self) -> None:
        """Give up writing; changes that are under way finish first."""
        with anyio.CancelScope(shield=True):
            for lock in list(self._locks.values()):
                async with lock:
                    pass
            await self._store.close()

    # Reads

    async def get(self, session_id: str) -> Session:
        """The session as it stands.

        Raises:
            InvalidArgument: not an id.
            NotFound: there is none; the text names close or recent ones.
            StateConflict: a newer mcpkeep wrote it.
            StorageFailed: its file cannot be read.
        """
        check_session_id(session_id)
        await self._refresh()
        return self._read(session_id)

    async def list(self, status: Status | None = None, *, limit: int = 100, offset: int = 0) -> SessionPage:
        """A page of the sessions, in any status or in one. Reads no file while this process is the writer."""
        await self._refresh()
        found = [s.summary for s in self._sessions.values() if status is None or s.summary.status == status]
        page = heapq.nlargest(offset + limit, found, key=_age)[offset:]  # a third of what sorting takes
        return SessionPage(tuple(page), len(found), self._news.warnings)

    # Changes

    async def start(
        self,
        *,
        workflow_type: str,
        target_file: str,
        first_phase: int,
        last_phase: int,
        options: Mapping[str, object] | None = None,
    ) -> Started:
        """Begin a session; never reuses one. Raises as the other changes."""
        session = rules.start(
            self._new_id(),
            workflow_type=workflow_type,
            target_file=target_file,
            first_phase=first_phase,
            last_phase=last_phase,
            options=options,
            now=self._now(),
        )
        key = session.session_id

        async def save() -> Started:
            if key in self._sessions or key in self._news.blocked:
                raise StateConflict(f"session {key!r} exists already", "start again")
            existing = [
                s.summary
                for s in self._sessions.values()
                if s.summary.workflow_type == workflow_type
                and s.summary.target_file == target_file
                and s.summary.status in (Status.ACTIVE, Status.PAUSED, Status.FAILED)
            ]
            existing.sort(key=_age, reverse=True)
            self._sessions[key] = await self._store.save(session)
            return Started(session, tuple(existing))

        return await self._serially(key, save)

    async def change(
        self, session_id: str, decide: Callable[[Session], Session], *, seen: Session | None = None
    ) -> Changed:
        """Apply one of the rules of `protocol.workflow.transition` and make the outcome durable.

        `decide` may be called more than once, each time on the newest state.

        Raises:
            InvalidArgument, NotFound, StateConflict: as get, and what `decide` raises; or the session is not
                as `seen`; or another process is the writer.
            StorageFailed: not durable; memory is unchanged.
        """
        check_session_id(session_id)

        async def save() -> Changed:
            before = self._read(session_id)
            if seen is not None:
                require_unchanged(seen, before)
            after = decide(before)
            self._sessions[session_id] = await self._store.save(after)
            return Changed(before, after)

        return await self._serially(session_id, save)

    async def pass_gate(
        self,
        session_id: str,
        phase: int,
        *,
        evidence: Mapping[str, object],
        next_phase: int | None = None,
        last_phase: int | None = None,
        seen: Session | None = None,
    ) -> Changed:
        """The gate accepted the evidence. See `protocol.workflow.transition.pass_gate`."""
        return await self.change(
            session_id,
            lambda s: rules.pass_gate(
                s, phase, evidence=evidence, next_phase=next_phase, last_phase=last_phase, now=self._now()
            ),
            seen=seen,
        )

    async def refuse_gate(
        self,
        session_id: str,
        phase: int,
        *,
        evidence: Mapping[str, object],
        error: SessionError,
        seen: Session | None = None,
    ) -> Changed:
        """The gate refused the evidence; the session stays active."""
        return await self.change(
            session_id,
            lambda s: rules.refuse_gate(s, phase, evidence=evidence, error=error, now=self._now()),
            seen=seen,
        )

    async def pause(
        self, session_id: str, *, note: str | None = None, seen: Session | None = None
    ) -> Changed:
        return await self.change(session_id, lambda s: rules.pause(s, note=note, now=self._now()), seen=seen)

    async def resume(self, session_id: str, *, seen: Session | None = None) -> Changed:
        """Go on; `paused_seconds(changed.before, changed.after.last_updated)` is how long it rested."""
        return await self.change(session_id, lambda s: rules.resume(s, now=self._now()), seen=seen)

    async def retry(
        self, session_id: str, phase: int, *, reset_evidence: bool = False, seen: Session | None = None
    ) -> Changed:
        return await self.change(
            session_id,
            lambda s: rules.retry(s, phase, reset_evidence=reset_evidence, now=self._now()),
            seen=seen,
        )

    async def roll_back(self, session_id: str, to_phase: int, *, seen: Session | None = None) -> Changed:
        return await self.change(
            session_id, lambda s: rules.roll_back(s, to_phase, now=self._now()), seen=seen
        )

    async def fail(self, session_id: str, *, error: SessionError, seen: Session | None = None) -> Changed:
        return await self.change(session_id, lambda s: rules.fail(s, error=error, now=self._now()), seen=seen)

    async def undo(
        self, session_id: str, *, error: SessionError | None = None, seen: Session | None = None
    ) -> Changed:
        return await self.change(session_id, lambda s: rules.undo(s, error=error, now=self._now()), seen=seen)

    async def record_error(self, session_id: str, *, error: SessionError) -> Changed:
        return await self.change(session_id, lambda s: rules.record_error(s, error=error, now=self._now()))

    async def delete(self, session_id: str, *, reason: str | None = None) -> Deleted:
        """Delete for good. Succeeds, and writes nothing, where there is no such session. Raises as change."""
        check_session_id(session_id)
        await self._refresh()

        async def remove() -> Deleted:
            if session_id in self._news.blocked:
                self._read(session_id)
            if session_id not in self._sessions:
                return Deleted(existed=False, state_file_removed=False)
            removed = await self._store.delete(session_id, reason=reason, now=self._now())
            del self._sessions[session_id]
            return Deleted(existed=True, state_file_removed=removed)

        return await self._serially(session_id, remove)

    # Below here memory meets the store

    def _read(self, session_id: str) -> Session:
        if (why := self._news.blocked.get(session_id)) is not None:
            raise StateConflict(f"session {session_id!r} cannot be used: {why}", "see the file it names")
        stored = self._sessions.get(session_id)
        if stored is None:
            near = suggest(session_id, [s.summary for s in self._sessions.values()])
            raise NotFound(
                f"there is no session {session_id!r}",
                f"did you mean one of: {', '.join(near)}" if near else "begin one with start",
            )
        try:
            return self._read_stored(stored)
        except SnapshotDamaged as e:
            raise StorageFailed(
                f"session {session_id!r} cannot be read: {e}", "delete it, or repair it"
            ) from e

    async def _refresh(self) -> None:
        async with self._acquiring:
            self._take_in(await self._store.refresh())

    async def _serially(self, session_id: str, work: Callable[[], Awaitable[T]]) -> T:
        lock = self._locks.setdefault(session_id, anyio.Lock(fast_acquire=True))
        async with lock:
            with anyio.CancelScope(shield=True):
                for _ in range(_ATTEMPTS):
                    try:
                        return await work()
                    except WriterNeeded:
                        async with self._acquiring:
                            self._take_in(await self._store.acquire())
                    except Overtaken as e:
                        if e.stands is not None:
                            self._sessions[session_id] = e.stands
                        raise StateConflict(str(e), e.remediation) from e
        raise StorageFailed("the sessions' lock file is removed again and again", "find out who does it")

    def _take_in(self, news: News) -> None:
        self._sessions.update(news.changed)
        for session_id in (*news.removed, *news.blocked):
            self._sessions.pop(session_id, None)
        self._news = news


_age = attrgetter("last_updated", "session_id")
