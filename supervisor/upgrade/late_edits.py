"""What the user edited while a change was being made, or stood: it is never lost to the change."""

import os
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.journal import Intent
from mcpkeep.protocol.upgrade.places import OWN
from mcpkeep.protocol.upgrade.step import PutFile, TakeFile
from mcpkeep.supervisor.durable import FileCalls, remove_file, write_durably
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import copy_file, digest, make_missing
from mcpkeep.supervisor.upgrade.steps import perform, sync_touched, undo

__all__ = ["LateEdits"]

_GIVEN_BACK = "given_back.json"


class LateEdits:
    def __init__(self, layout: Layout, *, calls: FileCalls) -> None:
        self._layout = layout
        self._calls = calls

    def give_back(self, order: ChangeOrder, intent: Intent) -> None:
        """Put in place again what turns out, now that it is swapped, not to be what was planned over."""
        at, late = self._layout.standing(), _late(order.session_id)
        touched: set[Path] = set()
        given = list(self.given_back(order.session_id))
        for step in intent.steps:
            if isinstance(step, PutFile | TakeFile):
                found = digest(at.base / step.kept)
                expected = order.expected.get(step.path)
                if found is None or found == expected:
                    continue
                given.append(step.path)
                if isinstance(step, PutFile):
                    back = PutFile(step.number, step.path, step.kept, f"{late}/{step.path}")
                    touched |= perform(back, self._layout.base, calls=self._calls)
                else:
                    touched |= undo(step, self._layout.base, calls=self._calls)
        sync_touched(touched, self._layout.base, calls=self._calls)
        if touched:
            path = at.change(order.session_id) / _GIVEN_BACK
            write_durably(path, msgspec.json.encode(sorted(set(given))), calls=self._calls)

    def given_back(self, session_id: str) -> tuple[str, ...]:
        """The paths that give_back() has put in place again."""
        try:
            data = (self._layout.standing().change(session_id) / _GIVEN_BACK).read_bytes()
        except OSError:
            return ()
        return msgspec.json.decode(data, type=tuple[str, ...])

    def return_edits(self, session_id: str, intent: Intent) -> list[str]:
        """After steps were taken back: what was edited while the new version stood is put in place again."""
        at, late, calls = self._layout.standing(), _late(session_id), self._calls
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


def _late(session_id: str) -> str:
    """Where goes what gave way to an edit that was made during the swap itself."""
    return f"{OWN}/conflicts/{session_id}/late"
