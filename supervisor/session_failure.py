"""What a failed file call comes to for whoever wanted a session saved."""

import errno

from mcpkeep.protocol.workflow.refusal import StorageFailed
from mcpkeep.supervisor.durable import FileChanged

__all__ = ["storage_failure"]

_REMEDIES: tuple[tuple[frozenset[int | None], str], ...] = (
    (frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}), "free disk space"),
    (frozenset({errno.EACCES, errno.EPERM, errno.EROFS}), "make the sessions' folder writable"),
    (frozenset({errno.ENOTDIR, errno.EEXIST}), "move the file away that stands where the folder should be"),
)


def storage_failure(error: OSError | FileChanged) -> StorageFailed:
    """The refusal, with what to do about it; nothing has changed."""
    code = error.errno if isinstance(error, OSError) else None
    text = error.strerror if isinstance(error, OSError) else str(error)
    remedy = next((remedy for codes, remedy in _REMEDIES if code in codes), "look after the disk")
    return StorageFailed(
        f"the sessions cannot be saved: {text}", f"{remedy}, then repeat the call; nothing has changed"
    )
