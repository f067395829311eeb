"""What the operating system refuses, in the words of an upgrade."""

from collections.abc import Generator
from contextlib import contextmanager

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["os_reason", "refusing"]


def os_reason(error: OSError) -> str:
    """Such as `no space left on device`."""
    return (error.strerror or str(error)).lower()


@contextmanager
def refusing() -> Generator[None]:
    """Raise UpgradeFailed in the place of an OSError."""
    try:
        yield
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        raise UpgradeFailed(
            f"a file or folder{where} could not be read or written: {os_reason(error)}",
            remediation="free space, or make it readable and writable for the user who runs mcpkeep",
        ) from error
