"""Asks the upgrade actor of a workspace: through the mcpkeep that runs there, or by being it for a moment."""

from collections.abc import Callable
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.request import UpgradeAnswer, UpgradeMessage
from mcpkeep.supervisor.control import ask_holder, socket_path
from mcpkeep.supervisor.upgrade.layout import find_installation

__all__ = ["ask_workspace"]


async def ask_workspace(
    workspace: Path, question: UpgradeMessage, *, on_step: Callable[[str, str], None]
) -> UpgradeAnswer:
    """Ask, for as long as it takes.

    Raises:
        UpgradeFailed: there is no installation in the workspace.
        ControlError: the mcpkeep that runs there went away before it answered.
    """
    layout = find_installation(workspace)
    if layout is None:
        raise UpgradeFailed(
            f"{str(workspace)!r} has no .praxis-os folder; install praxis-os there, or name another --workspace",
            remediation="install praxis-os first",
        )
    try:
        return await ask_holder(socket_path(layout.own), question, on_step=on_step)
    except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
        from mcpkeep.supervisor.upgrade.alone import answer_alone

        return await answer_alone(layout, question, on_step=on_step)
