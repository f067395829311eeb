"""What lies in an installation and is not its content: made again, of one machine, or mcpkeep's own."""

import re

from mcpkeep.protocol.upgrade.places import BACKUPS, LOCK, OWN, SERVER_STATE, VENV

__all__ = ["is_left_out"]

_AT_THE_TOP = {
    OWN,
    BACKUPS,
    LOCK,
    SERVER_STATE,
    VENV,
    ".cache",
    "state",  # Workflow sessions: they outlive every upgrade and rollback.
    ".upgrade_lock",
}
# `.rebuild_index` is a request to the server, which takes it away again.
_ANYWHERE = re.compile(
    r"(?:^|/)(?:__pycache__|[^/]*\.py[co]|\.DS_Store|\.(?:pytest|mypy|ruff)_cache|\.rebuild_index"
    r"|[^/]*\.mcpkeep-\d+\.tmp)(?:/|$)"
)


def is_left_out(path: str) -> bool:
    """Whether this path, relative to the installation's folder, is no content by its name or its folder's.

    A venv by another name than `venv` or `.venv...` is told by its `pyvenv.cfg`, which this cannot see.
    """
    top = path.partition("/")[0]
    return top in _AT_THE_TOP or top.startswith(".venv") or _ANYWHERE.search(path) is not None
