"""Two names change places at once, so that neither is ever absent."""

import errno
import os
import sys
from pathlib import Path

__all__ = ["NO_EXCHANGE", "exchange_paths"]

NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What a system or file system says that cannot do it."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Of renameat2 in linux/fs.h; RENAME_SWAP of renamex_np in macOS's stdio.h is the same number."""


def exchange_paths(one: Path, other: Path) -> None:
    """Exchange two files or folders of one file system.

    Raises OSError, with a code of NO_EXCHANGE where there is no such call.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        done = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        done = libc.renamex_np(*paths, _RENAME_EXCHANGE)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))
