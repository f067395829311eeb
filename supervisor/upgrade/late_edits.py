"""What the user edited while a change was being made, or stood: it is never lost to the change.

    changes/<session>/late.json     what became of each such file
                      merged/       an edit and the new version in one, installed in its place

What no edit was merged with stays as it was staged, so that a phase can be done again.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder, ChangeRecord
from mcpkeep.protocol.upgrade.journal import Intent
from mcpkeep.protocol.upgrade.late_edit import CodeEdited, LateEdit, is_code_path
from mcpkeep.protocol.upgrade.places import OWN
from mcpkeep.protocol.upgrade.step import PutFile, TakeFile
from mcpkeep.supervisor.durable import FileCalls, remove_file, write_durably
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import copy_file, digest, make_missing, read_bytes
from mcpkeep.supervisor.upgrade.merge import merge_bytes
from mcpkeep.supervisor.upgrade.steps import perform, sync_touched, undo

__all__ = ["LateEdits", "late_place", "merged_place"]

_LATE = "late.json"


class LateEdits:
    def __init__(self, layout: Layout, *, calls: FileCalls) -> None:
        self._layout = layout
        self._calls = calls

    def follow(self, order: ChangeOrder, paths: Iterable[str]) -> ChangeOrder:
        """The order with what the user saved since it was prepared, of these paths: merged where that can be,
        left alone where it was deleted. Nothing live is touched.

        Raises CodeEdited where an upgrade's code is among them: it was not tried so.
        """
        base = self._layout.standing().base
        late = [path for path in paths if digest(base / path) != order.expected.get(path)]
        _require_no_code(order, late)
        edits: list[LateEdit] = []
        expected, gone = dict(order.expected), set[str]()
        for path in late:
            if digest(base / path) is None:
                gone.add(path)
                if path in order.written:
                    edits.append(LateEdit(path, "deleted"))
            elif path in order.written and (seen := self._merge(order, path)) is not None:
                expected[path] = seen
                edits.append(LateEdit(path, "merged", f"{OWN}/changes/{order.session_id}/old/{path}"))
        if edits:
            self._write(order.session_id, [*self.told(order.session_id), *edits])
        return msgspec.structs.replace(
            order,
            written=tuple(path for path in order.written if path not in gone),
            removed=tuple(path for path in order.removed if path not in gone),
            expected=expected,
        )

    def give_back(self, order: ChangeOrder, intent: Intent) -> None:
        """Put in place again what turns out, now that it is swapped, not to be what was planned over.

        Raises CodeEdited as follow(); its caller takes everything back.
        """
        at, late = self._layout.standing(), late_place(order.session_id)
        given: list[PutFile | TakeFile] = []
        for step in intent.steps:
            if isinstance(step, PutFile | TakeFile):
                found = digest(at.base / step.kept)
                if found is not None and found != order.expected.get(step.path):
                    given.append(step)
        _require_no_code(order, [step.path for step in given])
        touched: set[Path] = set()
        edits: list[LateEdit] = []
        for step in given:
            if isinstance(step, PutFile):
                back = PutFile(step.number, step.path, step.kept, f"{late}/{step.path}")
                touched |= perform(back, self._layout.base, calls=self._calls)
                edits.append(LateEdit(step.path, "apart", f"{late}/{step.path}"))
            else:
                touched |= undo(step, self._layout.base, calls=self._calls)
                edits.append(LateEdit(step.path, "kept"))
        sync_touched(touched, self._layout.base, calls=self._calls)
        if edits:
            self._write(order.session_id, [*self.told(order.session_id), *edits])

    def told(self, session_id: str) -> tuple[LateEdit, ...]:
        """What follow() and give_back() made of edits, sorted by path."""
        try:
            data = (self._layout.standing().change(session_id) / _LATE).read_bytes()
        except OSError:
            return ()
        return msgspec.json.decode(data, type=tuple[LateEdit, ...])

    def former(self, change: ChangeOrder | ChangeRecord, path: str, sha256: str) -> Path | None:
        """A file with the bytes that stood at `path` when the change was prepared, by their digest."""
        at = self._layout.standing()
        places = [at.change(change.session_id) / "old" / path]
        # Whoever saves in place writes into the old file by each of its names.
        if change.backup_id is not None:
            places.append(at.backups / change.backup_id / path)
        if isinstance(change, ChangeOrder):
            places += [at.change(session_id) / "new" / path for session_id in change.undoes]
        return next((place for place in places if digest(place) == sha256), None)

    def _merge(self, order: ChangeOrder, path: str) -> str | None:
        """Put what is to be installed into merged/ and new/; the digest of the edit that is in it."""
        at = self._layout.standing()
        change = at.change(order.session_id)
        live, new = at.base / path, change / "new" / path
        planned = order.expected.get(path)
        former = self.former(order, path, planned) if planned is not None else None
        if former is None or any(place.is_symlink() for place in (former, live, new)):
            return None
        ours = read_bytes(live)
        merged = merge_bytes(read_bytes(former), ours, read_bytes(new), path=path)
        if merged is None:
            return None
        mode = stat.S_IMODE(os.lstat(new).st_mode)
        for target in (at.base / merged_place(order.session_id, path), new):
            make_missing(target.parent, calls=self._calls)
            write_durably(target, merged, calls=self._calls, mode=mode)
        return hashlib.sha256(ours).hexdigest()

    def _write(self, session_id: str, edits: Iterable[LateEdit]) -> None:
        by_path = {edit.path: edit for edit in edits}
        data = msgspec.json.encode([edit for _, edit in sorted(by_path.items())])
        write_durably(self._layout.standing().change(session_id) / _LATE, data, calls=self._calls)

    def return_edits(self, session_id: str, intent: Intent) -> list[str]:
        """After steps were taken back: what was edited while the new version stood is put in place again."""
        at, late, calls = self._layout.standing(), late_place(session_id), self._calls
        base, change = at.base, at.change(session_id)
        touched: set[Path] = set()
        stayed: list[str] = []
        for step in intent.steps:
            if isinstance(step, PutFile):
                staged, new = base / step.staged, change / "new" / step.path
                installed = digest(new)
                if installed is not None and digest(staged) not in (None, installed):
                    edited = PutFile(step.number, step.path, step.staged, f"{late}/{step.path}")
                    touched |= perform(edited, self._layout.base, calls=calls)
                    stayed.append(step.path)
                    # Not before the edit is sure to outlast a power loss in its place.
                    sync_touched(touched, self._layout.base, calls=calls)
                if installed is not None and not os.path.lexists(staged):
                    # So that the phase can be done again.
                    temp = change / "again.tmp"
                    remove_file(temp, calls=calls)
                    copy_file(new, temp, calls=calls)
                    touched |= make_missing(staged.parent, calls=calls) | {staged.parent}
                    calls.rename(temp, staged)
            elif isinstance(step, TakeFile) and os.path.lexists(base / step.kept):
                aside = base / late / step.path
                touched |= make_missing(aside.parent, calls=calls) | {aside.parent}
                calls.rename(base / step.kept, aside)
                stayed.append(step.path)
        sync_touched(touched, self._layout.base, calls=calls)
        return stayed


def _require_no_code(order: ChangeOrder, paths: Iterable[str]) -> None:
    # A rollback merges code as it merges content, and by then it must not fail for it.
    code = [path for path in paths if is_code_path(path)]
    if code and order.kind == "upgrade":
        raise CodeEdited(code)


def late_place(session_id: str) -> str:
    """Where goes what gave way to a late edit, relative to the installation's folder."""
    return f"{OWN}/conflicts/{session_id}/late"


def merged_place(session_id: str, path: str) -> str:
    """Where follow() puts a merged file."""
    return f"{OWN}/changes/{session_id}/merged/{path}"
