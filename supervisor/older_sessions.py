"""Sessions that prAxIs OS itself wrote: read once, never changed."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mcpkeep.protocol.workflow.snapshot import SnapshotDamaged, Stored, carry_over, store
from mcpkeep.supervisor.session_folder import session_of

__all__ = ["read_older"]


def read_older(folders: Sequence[Path], *, wanted: Callable[[str], bool]) -> Iterator[Stored | str]:
    """The sessions whose ids are `wanted` at that moment, and a warning for each that cannot be read."""
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            session_id, kind = session_of(name) or ("", "")
            if kind != ".json" or not wanted(session_id):
                continue
            shown = f"{name} in {folder.parent.name}/{folder.name}"
            try:
                session = carry_over((folder / name).read_bytes(), session_id=session_id, to_utc=_to_utc)
            except OSError as e:
                yield f"{shown} cannot be read: {e.strerror}"
            except SnapshotDamaged as e:
                yield f"{shown} was not carried over: {e}"
            else:
                yield store(session)


def _to_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
