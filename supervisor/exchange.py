"""Two names change places at one instant, where the system and the file system can do that."""

import errno
import os
import sys
from pathlib import Path

__all__ = ["NO_EXCHANGE", "exchange"]

NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What is answered where it cannot be done: an old kernel or C library, NFS, FUSE, some overlays."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = _RENAME_SWAP = 2


def exchange(a: Path, b: Path) -> None:
    """Give each the other's name; both stand at every instant. Raises OSError, such as one of NO_EXCHANGE."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(a), os.fsencode(b)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(one, other, _RENAME_SWAP)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(a), None, str(b))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(a), None, str(b))
