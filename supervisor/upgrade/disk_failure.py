"""Says what a failed file call comes to, and what to do about it."""

import contextlib
import errno
from collections.abc import Generator

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["disk_failure"]

_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota on that disk",
    errno.EIO: "the disk errs: save what you can, and look at the system's log",
    errno.EACCES: "make it accessible to the user who runs mcpkeep",
    errno.EPERM: "make it accessible to the user who runs mcpkeep",
    errno.EROFS: "mount the file system for writing",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.EISDIR: "a folder stands where a file is needed: move it away",
    errno.ENOTEMPTY: "a folder stands where a file is needed: move it away",
    errno.ENAMETOOLONG: "use a shorter path to the workspace",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "end programs that hold many files open",
}


@contextlib.contextmanager
def disk_failure(doing: str) -> Generator[None]:
    """Let an OSError go on as UpgradeFailed: `doing` failed, at which file, by which error."""
    try:
        yield
    except OSError as error:
        at = f" at {str(error.filename)!r}" if error.filename else ""
        name = errno.errorcode.get(error.errno or 0, "OSError")
        raise UpgradeFailed(
            f"{doing} failed{at}: {(error.strerror or str(error)).lower()} ({name})",
            remediation=_REMEDIES.get(error.errno or 0, "try again when what it names is mended"),
            details={"errno": name, "path": str(error.filename or "")},
        ) from error
