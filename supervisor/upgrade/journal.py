"""The journals on disk: journal/<session>.jsonl, one record per line, each durable when append() returns."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Ended, JournalRecord, JournalState, fold
from mcpkeep.supervisor.durable import (
    OS_CALLS,
    FileCalls,
    Stamp,
    make_folders,
    stamp_of,
    write_durably,
)
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["JournalFiles", "ThreadedJournals", "require_session_id"]

T = TypeVar("T")

_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SUFFIX = ".jsonl"
_DECODER: "msgspec.json.Decoder[JournalRecord]" = msgspec.json.Decoder(JournalRecord)


def require_session_id(session_id: str) -> None:
    """Raise UpgradeFailed where it would not do as a file's name."""
    if _SESSION_ID.fullmatch(session_id) is None:
        raise UpgradeFailed(
            f"{session_id!r} is no session id",
            remediation="use letters, digits, `-` and `_`, 100 at most, beginning with a letter or digit",
        )


class JournalFiles:
    """The journals of one installation. For one thread at a time per session."""

    def __init__(self, layout: Layout, *, calls: FileCalls = OS_CALLS) -> None:
        self._layout = layout
        self._calls = calls
        self._doubtful: set[str] = set()
        self._ended: dict[str, Stamp] = {}
        """Those that have ended, as they were then: each has the steps of a whole change to be read."""

    def begin(self, begun: Begun) -> None:
        """Make the journal, with its first record. Raises UpgradeFailed where the session has one."""
        path = self._path(begun.session_id)
        if self.read(begun.session_id) is not None:
            raise UpgradeFailed(
                f"session {begun.session_id!r} has a journal already", remediation="use a new session id"
            )
        try:
            make_folders(path.parent, calls=self._calls)
            write_durably(path, _line(begun), calls=self._calls)
        except OSError as e:
            raise _failed(path, e) from e

    def append(self, session_id: str, record: JournalRecord) -> None:
        """Add a record. Raises UpgradeFailed: then it may, or may not, be found there after a crash."""
        self._append(session_id, record)
        if isinstance(record, Ended):
            with contextlib.suppress(OSError):
                self._remember(session_id, stamp_of(self._path(session_id)))

    def _append(self, session_id: str, record: JournalRecord) -> None:
        path = self._path(session_id)
        try:
            if session_id in self._doubtful or not _ends_whole(path):
                # A torn line is nobody's word; and what an fsync failed to write, no later one does.
                whole = b"".join(_line(record) for record in self._records(session_id))
                write_durably(path, whole + _line(record), calls=self._calls)
                self._doubtful.discard(session_id)
                return
            self._doubtful.add(session_id)
            fd = self._calls.open_append(path)
            try:
                rest = memoryview(_line(record))
                while rest:
                    rest = rest[self._calls.write(fd, rest) :]
                self._calls.fsync(fd)
            finally:
                self._calls.close(fd)
            self._doubtful.discard(session_id)
        except OSError as e:
            raise _failed(path, e) from e

    def read(self, session_id: str) -> JournalState | None:
        """What the journal comes to; None where there is none. Raises UpgradeFailed where it is damaged."""
        return fold(self._records(session_id))

    def session_ids(self) -> tuple[str, ...]:
        """Of all journals, whatever is in them."""
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:
            return ()
        ids = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return tuple(name for name in ids if _SESSION_ID.fullmatch(name))

    def open(self) -> tuple[JournalState, ...]:
        """Those that have not ended, oldest first. Raises UpgradeFailed where one is damaged."""
        found: list[JournalState] = []
        for session_id in self.session_ids():
            stamp = stamp_of(self._path(session_id))
            if stamp is not None and self._ended.get(session_id) == stamp:
                continue
            state = self.read(session_id)
            if state is None:
                continue
            if state.ended is None:
                found.append(state)
            else:
                self._remember(session_id, stamp)
        return tuple(sorted(found, key=lambda state: (state.begun.at, state.begun.session_id)))

    def _remember(self, session_id: str, ended: Stamp | None) -> None:
        if ended is not None:
            self._ended[session_id] = ended

    @property
    def _folder(self) -> Path:
        return self._layout.standing().journals

    def _path(self, session_id: str) -> Path:
        require_session_id(session_id)
        return self._folder / f"{session_id}{_SUFFIX}"

    def _records(self, session_id: str) -> list[JournalRecord]:
        path = self._path(session_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as e:
            raise _failed(path, e) from e
        records: list[JournalRecord] = []
        # What follows the last newline was cut short, and never answered for.
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                records.append(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as e:
                raise UpgradeFailed(
                    f"{str(path)!r} is damaged at line {number}: {e}",
                    remediation="nothing was touched; compare the installation with the last backup "
                    "(`mcpkeep verify`), mend it, then move the journal away",
                    details={"path": str(path), "line": number},
                ) from e
        return records


class ThreadedJournals:
    """The Journals of the upgrade actor: JournalFiles in a worker thread."""

    def __init__(self, files: JournalFiles) -> None:
        self._files = files
        self._limiter = anyio.CapacityLimiter(1)

    async def begin(self, begun: Begun) -> None:
        await self._run(lambda: self._files.begin(begun))

    async def append(self, session_id: str, record: JournalRecord) -> None:
        await self._run(lambda: self._files.append(session_id, record))

    async def read(self, session_id: str) -> JournalState | None:
        return await self._run(lambda: self._files.read(session_id))

    async def open(self) -> tuple[JournalState, ...]:
        return await self._run(self._files.open)

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def _line(record: JournalRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _ends_whole(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        return size > 0 and os.pread(fd, 1, size - 1) == b"\n"
    finally:
        os.close(fd)


def _failed(path: Path, error: OSError) -> UpgradeFailed:
    return UpgradeFailed(
        f"the journal {path.name!r} cannot be read or written: {error.strerror}",
        remediation="look after the disk: room, permissions, health; then start again",
    )
