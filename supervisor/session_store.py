"""The folder that keeps workflow sessions: a snapshot of each, the one before it, a tombstone once deleted.

    <id>.json           the session            <id>.json.previous   the generation before
    <id>.deleted        it never comes back    <id>.json.damaged    set aside for people
    .lock               who writes

`SessionFiles` is plain and synchronous; `session_threads` runs it off the event loop.
"""

import contextlib
import os
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from mcpkeep.actors.session import News, Overtaken, WriterNeeded
from mcpkeep.protocol.workflow.refusal import StateConflict
from mcpkeep.protocol.workflow.session import Session, summarize
from mcpkeep.protocol.workflow.snapshot import (
    SnapshotDamaged,
    SnapshotTooNew,
    Stored,
    encode_snapshot,
    open_snapshot,
    read_session,
)
from mcpkeep.supervisor.durable import (
    OS_CALLS,
    Draft,
    FileCalls,
    FileChanged,
    InPlace,
    NotTakenBack,
    Stamp,
    make_folders,
    remove_file,
    stamp_of,
    write_durably,
)
from mcpkeep.supervisor.folder_sync import FolderSync
from mcpkeep.supervisor.older_sessions import read_older
from mcpkeep.supervisor.session_failure import WORKSPACE_GONE, storage_failure, workspace_gone
from mcpkeep.supervisor.session_folder import (
    current_file,
    differs,
    list_sessions,
    previous_file,
    read_stamped,
    session_of,
    tombstone,
)
from mcpkeep.supervisor.writer_lock import WriterLock

__all__ = ["SessionFiles"]

# Longer than the coarsest tick of a folder's modification time (a jiffy; HFS+ and some network disks: 1 s).
_RACY_SECONDS = 2.0

# Drafts that one writer has open at a time; on macOS a process may have 256 files open.
_TOGETHER = 64


class _Tombstone(msgspec.Struct, frozen=True):
    session_id: str
    deleted_at: datetime
    reason: str | None


class SessionFiles:
    """The files. `save` and `delete` may run in several threads, for different sessions; the rest in one.

    `older` are folders that hold sessions of prAxIs OS: read once, never changed. The folder is made where it
    is missing, but not without the workspace, nor in place of one that was moved.
    """

    def __init__(
        self,
        folder: Path,
        *,
        who: str,
        workspace: Path | None = None,
        older: Sequence[Path] = (),
        calls: FileCalls = OS_CALLS,
    ) -> None:
        self._folder = folder
        self._workspace = workspace
        self._older = older
        self._calls = calls
        self._lock = WriterLock(folder / ".lock", who=who)
        self._writing = False
        self._was_moved = False
        self._sync = FolderSync(folder, calls=calls)
        self._stamps: dict[str, Stamp] = {}
        """Of each session's file, as last read or written here; no entry where it has no file."""
        self._known: set[str] = set()
        self._carried: dict[str, Stored] = {}
        self._older_read = False
        self._damaged: dict[str, tuple[str, bool]] = {}
        """Damaged files that are still in place: why, and whether the previous generation stands in."""
        self._blocked: dict[str, str] = {}
        self._half_deleted: set[str] = set()
        """Sessions whose deletion failed with the tombstone perhaps in place."""
        self._told: list[str] = []
        """Warnings about what was set aside; they hold as long as this process runs."""
        self._changed: dict[str, Stored] = {}
        self._removed: set[str] = set()
        """What memory has not been told yet; a failure on the way must not lose it."""
        self._folder_seen: tuple[int, float] | None = None
        """The folder's mtime (ns) at the last scan, and when that was (s)."""

    @property
    def writing(self) -> bool:
        """Whether this process is the writer, as far as it knows without asking the disk."""
        return self._writing

    def writer(self) -> str | None:
        """Who may change sessions now: this process, another one by its name, or nobody yet."""
        if self._is_writer():
            return "this process"
        owner = self._lock.owner()
        return str(owner) if owner is not None and owner.is_alive() else None

    def refresh(self) -> News:
        """What changed on disk, unless this process is the writer. Raises nothing."""
        if self._writing:
            return self._news()
        try:
            mtime = os.stat(self._folder).st_mtime_ns
            seen = self._folder_seen
            if seen is None or seen[0] != mtime or seen[1] - mtime / 1e9 < _RACY_SECONDS:
                self._scan()
        except FileNotFoundError:
            if self._is_gone():
                return self._news(WORKSPACE_GONE)
            self._carry(set())
        except OSError as e:
            return self._news(f"the sessions' folder cannot be read: {e.strerror}")
        if self._damaged:
            # Setting aside is a change: done at once where nobody writes, without staying the writer.
            with contextlib.suppress(OSError, FileChanged):
                if self._lock.acquire():
                    try:
                        self._set_aside()
                    finally:
                        self._lock.release()
        return self._news()

    def acquire(self) -> News:
        """Become the writer and tidy up after the last one. Raises StateConflict, StorageFailed."""
        if self._is_writer():
            return self._news()
        self._writing = False
        if self._is_gone():
            self._lock.release()
            raise workspace_gone()
        try:
            make_folders(self._folder, calls=self._calls)
            if not self._lock.acquire():
                owner = self._lock.owner() or "another process"
                raise StateConflict(
                    f"the sessions of this workspace are being changed by {owner}",
                    "work there, or end it: this one takes over then. Reads work here as ever",
                )
            ignore = self._folder / ".gitignore"
            if not ignore.exists():
                write_durably(ignore, b"*\n", calls=self._calls)
            self._scan()
            self._set_aside()
            self._tidy()
        except (OSError, FileChanged) as e:
            self._lock.release()
            raise storage_failure(e) from e
        for session_id, carried in list(self._carried.items()):
            try:
                self._write(session_id, carried.data)
            except (OSError, FileChanged):
                continue  # It is kept where it was, and the next writer tries again.
            del self._carried[session_id]
        self._writing = True
        return self._news()

    def save(self, session: Session) -> Stored:
        """Make the session durable. Raises WriterNeeded, Overtaken, StorageFailed, InvalidArgument."""
        (outcome,) = self.save_all((session,))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def save_all(self, sessions: Sequence[Session]) -> list[Stored | Exception]:
        """Make different sessions durable together: of each, what save answers or raises."""
        outcomes: list[Stored | Exception] = []
        for at in range(0, len(sessions), _TOGETHER):
            outcomes += self._save_together(sessions[at : at + _TOGETHER])
        return outcomes

    def _save_together(self, sessions: Sequence[Session]) -> list[Stored | Exception]:
        """Each step for all, so that the disk writes them together; in the end one sync of the folder."""
        if not self._is_writer():
            return [WriterNeeded() for _ in sessions]
        outcomes: dict[str, Stored | Exception] = {}
        drafts: dict[str, Draft] = {}
        synced: dict[str, Draft] = {}
        placed: dict[str, InPlace] = {}
        try:
            for session in sessions:
                key = session.session_id
                with self._noting(key, outcomes):
                    data = encode_snapshot(session)
                    drafts[key] = self._draft(key, data)
                    outcomes[key] = Stored(summarize(session), data)
            if len(drafts) > 1:
                for draft in drafts.values():
                    draft.start_writing()
            for key, draft in drafts.items():
                with self._noting(key, outcomes):
                    draft.sync()
                    synced[key] = draft
            for key, draft in synced.items():
                with self._noting(key, outcomes):
                    placed[key] = self._put(key, draft)
        finally:
            for draft in drafts.values():
                draft.drop()
        refused = self._settle(placed)
        for key in placed:
            if refused is not None:
                outcomes[key] = storage_failure(refused)
            else:
                self._carried.pop(key, None)
                self._known.add(key)
        return [outcomes[session.session_id] for session in sessions]

    @contextlib.contextmanager
    def _noting(self, session_id: str, outcomes: dict[str, Stored | Exception]) -> Generator[None]:
        try:
            yield
        except FileChanged:
            outcomes[session_id] = self._overtaken(session_id)
        except OSError as e:
            outcomes[session_id] = storage_failure(e)
        except Exception as e:
            outcomes[session_id] = e

    def delete(self, session_id: str, *, reason: str | None, now: datetime) -> bool:
        """Delete for good: a tombstone first, durably, then the files. Raises as save."""
        if not self._is_writer():
            raise WriterNeeded
        target, previous = self._paths(session_id)
        record = _Tombstone(session_id, now, reason)
        try:
            present = stamp_of(target)
            if present is not None and present != self._stamps.get(session_id):
                raise self._overtaken(session_id)
            write_durably(
                tombstone(self._folder, session_id),
                msgspec.json.format(msgspec.json.encode(record)) + b"\n",
                calls=self._calls,
                sync_folder=self._sync,
            )
        except OSError as e:
            self._half_deleted.add(session_id)
            raise storage_failure(e) from e
        # From here on it is deleted, whatever becomes of the files.
        self._forget(session_id)
        removed = False
        with contextlib.suppress(OSError):
            removed = remove_file(target, calls=self._calls)
            remove_file(previous, calls=self._calls)
        return removed

    def close(self) -> None:
        """Let another process be the writer."""
        self._writing = False
        self._lock.release()

    def _is_gone(self) -> bool:
        """Whether to make the folder would make a ghost of a workspace that was moved or removed."""
        self._was_moved |= self._lock.was_moved
        moved = self._was_moved and not os.path.lexists(self._folder)
        return moved or (self._workspace is not None and not self._workspace.is_dir())

    def _paths(self, session_id: str) -> tuple[Path, Path]:
        return current_file(self._folder, session_id), previous_file(self._folder, session_id)

    def _is_writer(self) -> bool:
        return self._writing and self._lock.held

    def _write(self, session_id: str, data: bytes) -> None:
        placed = self._put(session_id, self._draft(session_id, data))
        if (refused := self._settle({session_id: placed})) is not None:
            raise refused

    def _draft(self, session_id: str, data: bytes) -> Draft:
        if session_id in self._half_deleted:
            remove_file(tombstone(self._folder, session_id), calls=self._calls)
            self._half_deleted.discard(session_id)
        return Draft(current_file(self._folder, session_id), data, calls=self._calls)

    def _put(self, session_id: str, draft: Draft) -> InPlace:
        return draft.put_in_place(
            previous=previous_file(self._folder, session_id),
            expected=self._stamps.get(session_id, "absent"),
        )

    def _settle(self, placed: Mapping[str, InPlace]) -> OSError | None:
        """Sync the folder; where that fails, take all of them back and tell why."""
        if not placed:
            return None
        try:
            self._sync()
        except OSError as e:
            for session_id, file in placed.items():
                try:
                    file.take_back(e)
                except NotTakenBack as kept:
                    self._stamps[session_id] = kept.stamp
            return e
        for session_id, file in placed.items():
            self._stamps[session_id] = file.stamp
        return None

    def _forget(self, session_id: str) -> None:
        self._known.discard(session_id)
        self._half_deleted.discard(session_id)
        self._changed.pop(session_id, None)
        self._stamps.pop(session_id, None)
        self._carried.pop(session_id, None)
        self._blocked.pop(session_id, None)
        self._damaged.pop(session_id, None)

    def _news(self, *extra: str) -> News:
        """Hand over what memory has not been told yet."""
        damaged = (
            f"{session_id}.json is damaged ({why})" + ("; the previous generation stands in" if saved else "")
            for session_id, (why, saved) in sorted(self._damaged.items())
        )
        blocked = (f"{session_id}.json: {why}" for session_id, why in sorted(self._blocked.items()))
        warnings = (*self._told, *damaged, *blocked, *extra)
        news = News(self._changed, tuple(self._removed), dict(self._blocked), warnings)
        self._changed, self._removed = {}, set()
        return news

    # Reading

    def _scan(self) -> None:
        """Read what is new or different in the folder. Raises OSError where it cannot be listed."""
        began = time.time()
        mtime = os.stat(self._folder).st_mtime_ns
        current, previous, deleted = list_sessions(self._folder)
        for session_id in self._stamps.keys() - current.keys():
            del self._stamps[session_id]
        for session_id in (current.keys() | previous) - deleted:
            if session_id not in current:
                # What stands in memory outlives its file; what does not comes from what is left of it.
                if session_id not in self._known:
                    self._take(session_id, self._from_previous(session_id, "is missing"))
            elif session_id not in self._stamps or differs(current[session_id], self._stamps[session_id]):
                self._take(session_id, self._from_disk(session_id))
        for session_id in deleted:
            if session_id in self._known:
                self._removed.add(session_id)
            self._forget(session_id)
        self._carry(deleted)
        if self._changed or self._removed:
            # A writer that was killed before its fsync left what is seen here, but not durably.
            with contextlib.suppress(OSError):
                self._calls.fsync_folder(self._folder)
        self._folder_seen = (mtime, began)

    def _take(self, session_id: str, found: Stored | None) -> None:
        self._carried.pop(session_id, None)
        if found is not None:
            self._changed[session_id] = found
            self._known.add(session_id)

    def _from_disk(self, session_id: str) -> Stored | None:
        """Read one session, falling back to its previous generation; what is wrong goes on record."""
        target, _ = self._paths(session_id)
        self._blocked.pop(session_id, None)
        self._damaged.pop(session_id, None)
        try:
            data, stamp = read_stamped(target)
        except FileNotFoundError:
            return None
        except OSError as e:
            self._blocked[session_id] = f"it cannot be read: {e.strerror}"
            return None
        self._stamps[session_id] = stamp
        try:
            return open_snapshot(data, session_id=session_id)
        except SnapshotTooNew as e:
            self._blocked[session_id] = str(e)
            return None
        except SnapshotDamaged as e:
            found = self._from_previous(session_id, None)
            self._damaged[session_id] = (str(e), found is not None)
            return found

    def _from_previous(self, session_id: str, why: str | None) -> Stored | None:
        _, previous = self._paths(session_id)
        try:
            found = open_snapshot(previous.read_bytes(), session_id=session_id)
        except (OSError, SnapshotDamaged, SnapshotTooNew):
            return None
        if why is not None:
            self._tell(f"{session_id}.json {why}; the previous generation stands in")
        return found

    def _carry(self, deleted: set[str]) -> None:
        """Take in sessions of prAxIs OS that are not here and were not deleted here; their files stay."""
        if self._older_read:
            return
        self._older_read = True

        def wanted(session_id: str) -> bool:
            return session_id not in deleted and not self._has(session_id)

        for found in read_older(self._older, wanted=wanted):
            if isinstance(found, str):
                self._tell(found)
            else:
                session_id = found.summary.session_id
                self._carried[session_id] = self._changed[session_id] = found
                self._known.add(session_id)

    def _has(self, session_id: str) -> bool:
        return session_id in self._known or session_id in self._blocked or session_id in self._damaged

    def _tell(self, warning: str) -> None:
        if warning not in self._told:
            self._told.append(warning)

    # Putting right; only under the lock

    def _set_aside(self) -> None:
        """Move damaged files out of the way, and put the previous generation in their place."""
        for session_id, (why, saved) in list(self._damaged.items()):
            aside = self._move_aside(session_id)
            del self._damaged[session_id]
            kept = "its previous generation stands in" if saved else "no previous generation was readable"
            self._tell(f"{session_id}.json was damaged ({why}) and set aside as {aside.name}; {kept}")
            if saved:
                _, previous = self._paths(session_id)
                self._write(session_id, previous.read_bytes())

    def _move_aside(self, session_id: str) -> Path:
        target, _ = self._paths(session_id)
        aside = target.with_name(f"{target.name}.damaged")
        for n in range(1, 1000):
            if not aside.exists():
                break
            aside = target.with_name(f"{target.name}.damaged.{n}")
        self._calls.rename(target, aside)
        self._stamps.pop(session_id, None)
        return aside

    def _tidy(self) -> None:
        """Remove what a writer left that did not end well: temp files, files of deleted sessions."""
        names = set(os.listdir(self._folder))
        for name in names:
            session_id, kind = session_of(name) or ("", "")
            gone = kind not in ("", ".deleted") and f"{session_id}.deleted" in names
            if gone or (name.startswith(".") and name.endswith(".tmp")):
                with contextlib.suppress(OSError):
                    self._calls.unlink(self._folder / name)

    def _overtaken(self, session_id: str) -> Overtaken:
        """Somebody else wrote the session's file: take what is valid, set aside what is not, lose nothing."""
        name = f"{session_id}.json"
        target, _ = self._paths(session_id)
        again = "read the session again with get_state, then decide anew"
        try:
            data, stamp = read_stamped(target)
            try:
                found = open_snapshot(data, session_id=session_id)
                read_session(found)
            except SnapshotTooNew as e:
                return Overtaken(f"{name} was changed on disk: {e}", "end the other mcpkeep first", None)
            except SnapshotDamaged as e:
                aside = self._move_aside(session_id)
                self._tell(f"{name} was edited while running ({e}); the edit was set aside as {aside.name}")
                return Overtaken(
                    f"{name} was changed on disk and cannot be used: {e}",
                    f"the edit is kept as {aside.name}, and the session stands as it was; repeat the call, "
                    "or edit the file anew without its checksum line",
                    None,
                )
        except OSError as e:
            return Overtaken(f"{name} was changed on disk and cannot be read: {e.strerror}", again, None)
        self._stamps[session_id] = stamp
        return Overtaken(f"{name} was changed on disk, and was read again", again, found)
