"""What a failed file call comes to in a change of the live tree."""

import contextlib
from collections.abc import Generator

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["as_failure", "failure"]


def failure(what: str, error: OSError | UpgradeFailed) -> UpgradeFailed:
    """`what` went wrong by this error, which stays as it is where it says more."""
    if isinstance(error, UpgradeFailed):
        return error
    where = f" ({error.filename})" if error.filename else ""
    return UpgradeFailed(
        f"{what}: {error.strerror or error}{where}",
        remediation="look after the disk: room, permissions, health; then try again",
        details={"errno": error.errno},
    )


@contextlib.contextmanager
def as_failure(what: str) -> Generator[None]:
    """Let an OSError go on as UpgradeFailed: `what` went wrong."""
    try:
        yield
    except OSError as e:
        raise failure(what, e) from e
