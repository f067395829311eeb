"""What a failed file call comes to for whoever wanted a session saved."""

import errno

from mcpkeep.protocol.workflow.refusal import StorageFailed
from mcpkeep.supervisor.durable import FileChanged

__all__ = ["WORKSPACE_GONE", "storage_failure", "workspace_gone"]

WORKSPACE_GONE = "the workspace was moved or removed since mcpkeep started"

_REMEDIES: tuple[tuple[frozenset[int | None], str], ...] = (
    (frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}), "free disk space"),
    (frozenset({errno.EACCES, errno.EPERM, errno.EROFS}), "make the sessions' folder writable"),
    (frozenset({errno.ENOTDIR, errno.EEXIST}), "move the file away that stands where the folder should be"),
)


def workspace_gone() -> StorageFailed:
    """The refusal where the folder that the workspace was in is no more."""
    return StorageFailed(
        f"the sessions cannot be saved: {WORKSPACE_GONE}",
        "restart mcpkeep where the workspace is now, and repeat the call there; nothing has changed",
    )


def storage_failure(error: OSError | FileChanged) -> StorageFailed:
    """The refusal, with what to do about it; nothing has changed."""
    code = error.errno if isinstance(error, OSError) else None
    text = error.strerror if isinstance(error, OSError) else str(error)
    remedy = next((remedy for codes, remedy in _REMEDIES if code in codes), "look after the disk")
    return StorageFailed(
        f"the sessions cannot be saved: {text}", f"{remedy}, then repeat the call; nothing has changed"
    )
