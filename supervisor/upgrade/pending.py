"""Whether an upgrade left anything to recover. Asked on every start, before the child: it imports little."""

import os
from typing import TYPE_CHECKING

from mcpkeep.protocol.bases import BASES

if TYPE_CHECKING:
    from mcpkeep.supervisor.upgrade.startup import Started

__all__ = ["anything_pending", "make_ready"]

_TAIL = 4096


def make_ready(workspace: str, base: str, release: str | None) -> "Started | None":
    """Recover what is pending, and make a release of code edited since its release; mostly nothing."""
    from mcpkeep.supervisor.upgrade.live_code import code_changed

    pending = anything_pending(workspace)
    edited = release is not None and code_changed(base)
    if not pending and not edited:
        return None
    from mcpkeep.supervisor.upgrade.startup import make_ready

    return make_ready(workspace, pending=pending, edited=edited)


def anything_pending(workspace: str) -> bool:
    """Whether an unended journal, a lock, a staging workspace or half a record is there. Never raises.

    It costs three failed listings, some 30 microseconds, with nothing there.
    """
    return any(_pending(f"{workspace}/{base}") for base in BASES)


def _pending(base: str) -> bool:
    own = f"{base}/.mcpkeep"
    journals = (name for name in _names(f"{own}/journal") if name.endswith(".jsonl"))
    if any(not _ended(f"{own}/journal/{name}") for name in journals):
        return True
    if os.path.lexists(f"{base}/.upgrade-lock"):
        return True
    if any(name.startswith(".") and name.endswith(".tmp") for name in _names(own)):
        return True
    return bool(_names(f"{own}/staging"))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _ended(path: str) -> bool:
    """Whether its last line is whole, and says so; one that cannot be read has something to be looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
        finally:
            os.close(fd)
    except OSError:
        return False
    if not tail.endswith(b"\n"):
        return False
    line = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    return line.startswith(b'{"type":"ended"')
