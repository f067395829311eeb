"""Before the first server is started: what was interrupted is recovered, edited code becomes a release."""

import os
from pathlib import Path
from typing import NamedTuple

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.installer import Installer
from mcpkeep.supervisor.upgrade.layout import Layout, find_installation
from mcpkeep.supervisor.upgrade.recovery import Recovered
from mcpkeep.supervisor.upgrade.venv import find_uv
from mcpkeep.supervisor.upgrade.world import UpgradeParts, make_parts, recover_installation

__all__ = ["Started", "make_ready"]


class Started(NamedTuple):
    """What the start found and did; the lock of a session that goes on is held in `parts`."""

    parts: UpgradeParts
    said: tuple[str, ...]
    """In sentences, for the log, the client and the status."""
    gone_back: tuple[str, ...] = ()
    """Sessions whose upgrades were taken back."""


def make_ready(workspace: str, *, pending: bool, edited: bool) -> Started | None:
    """Recover what is pending, and make a release of edited code; None where there is no installation.

    What fails is told in `said`; a server is started all the same.
    """
    layout = find_installation(Path(workspace))
    if layout is None:
        return None
    parts = make_parts(layout)
    recovered = recover_installation(parts) if pending else Recovered()
    said = list(recovered.said)
    if edited and parts.lock.owner() is None:
        said.append(_adopt(layout))
    return Started(parts, tuple(said), recovered.gone_back)


def _adopt(layout: Layout) -> str:
    installer = Installer(layout, environ=dict(os.environ), uv=find_uv(os.environ))
    try:
        made = installer.adopt(stopper=Stopper(), progress=lambda _step: None)
    except UpgradeFailed as failed:
        return f"mcp_server was edited, and could not be made a release: {failed}; {failed.remediation}"
    return f"mcp_server was edited: the server runs from it as release {made.release.release_id}"
