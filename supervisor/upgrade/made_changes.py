"""The record of each change that was made, and how they are forgotten."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.change import ChangedFile, ChangeOrder, ChangeRecord
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import FileCalls, make_folders, remove_file, write_durably
from mcpkeep.supervisor.upgrade.change_failure import as_failure
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import digest
from mcpkeep.supervisor.upgrade.removal import remove_tree

__all__ = ["MadeChanges"]

_RECORD = "change.json"
_FORGOTTEN = ".forgotten"
"""Among the changes: none of them counts any more."""


class MadeChanges:
    """Those of one installation. For one thread at a time."""

    def __init__(self, layout: Layout, *, now: Callable[[], datetime], calls: FileCalls) -> None:
        self._where = layout
        self._now = now
        self._calls = calls

    @property
    def _layout(self) -> Layout:
        return self._where.standing()

    def records(self) -> tuple[ChangeRecord, ...]:
        """The changes that were made, oldest first. Raises UpgradeFailed where one cannot be read."""
        found: list[ChangeRecord] = []
        try:
            names = sorted(os.listdir(self._layout.changes))
        except OSError:
            return ()
        if _FORGOTTEN in names:
            return ()
        for name in names:
            path = self._layout.changes / name / _RECORD
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=ChangeRecord))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as e:
                raise UpgradeFailed(
                    f"{str(path)!r} cannot be read: {e}",
                    remediation=f"restore a backup, and move {str(path.parent)!r} away",
                ) from e
        return tuple(sorted(found, key=lambda record: record.at))

    def holds(self, session_id: str) -> bool:
        """Whether the session's change was made, and not taken back."""
        return os.path.lexists(self._path(session_id))

    def state_of(self, release_id: str) -> Path | None:
        """Where the state file of that release's last server was saved."""
        for record in reversed(self.records()):
            if record.from_release == release_id:
                return self._layout.change(record.session_id)
        return None

    def write(
        self, order: ChangeOrder, installed: Mapping[str, str | None], *, given_back: Sequence[str]
    ) -> None:
        """Put on record, durably, that the change was made; not of the paths that were given back.

        `installed` are digests of what was written, as far as they are known.
        """
        change = self._layout.change(order.session_id)
        files = {path: ChangedFile(order.expected.get(path), None) for path in order.removed}
        for path in order.written:
            new = installed.get(path) or digest(change / "new" / path)
            files[path] = ChangedFile(order.expected.get(path), new)
        records = self.records()
        at = self._now()
        if records:  # Their order is that of the moments, whatever the clock does.
            at = max(at, records[-1].at + timedelta(microseconds=1))
        record = ChangeRecord(
            schema=1,
            session_id=order.session_id,
            kind=order.kind,
            at=at,
            from_release=order.from_release,
            to_release=order.to_release,
            backup_id=order.backup_id,
            swapped_index=order.swap_index,
            files={path: file for path, file in sorted(files.items()) if path not in given_back},
        )
        write_durably(change / _RECORD, msgspec.json.encode(record), calls=self._calls)

    def take_back(self, session_id: str) -> None:
        """Remove the record, durably; nothing where there is none. Raises OSError."""
        remove_file(self._path(session_id), calls=self._calls)
        self._calls.fsync_folder(self._layout.change(session_id))

    def prune(self, keep: Sequence[str]) -> None:
        """Forget the oldest changes that lead to or from none of these releases; those in between stay."""
        with as_failure("old changes cannot be removed"):
            for record in self.records():
                if record.from_release in keep or record.to_release in keep:
                    return
                remove_tree(self._layout.change(record.session_id), calls=self._calls)

    def forget(self) -> None:
        """Forget every change, all at once, though their files take time to go. May be called again."""
        changes, mark = self._layout.changes, self._layout.changes / _FORGOTTEN
        with as_failure("the changes cannot be forgotten"):
            if not self.forgetting:
                make_folders(changes, calls=self._calls)
                self._calls.close(self._calls.create(mark))
                self._calls.fsync_folder(changes)
            for name in sorted(os.listdir(changes)):
                if name != _FORGOTTEN:
                    remove_tree(changes / name, calls=self._calls)
            self._calls.fsync_folder(changes)
            self._calls.unlink(mark)
            self._calls.fsync_folder(changes)

    @property
    def forgetting(self) -> bool:
        """Whether forget() was begun and has not come to its end."""
        return os.path.lexists(self._layout.changes / _FORGOTTEN)

    def _path(self, session_id: str) -> Path:
        return self._layout.change(session_id) / _RECORD
