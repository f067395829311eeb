"""Asks the upgrade actor of a workspace: through the mcpkeep that runs there, or by being it for a moment."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.request import LOOKS, UpgradeAnswer, UpgradeMessage
from mcpkeep.supervisor.control import Holder, ask_holder, socket_path
from mcpkeep.supervisor.upgrade.layout import find_installation

__all__ = ["ask_workspace"]


async def ask_workspace(
    workspace: Path,
    question: UpgradeMessage,
    *,
    on_step: Callable[[str, str], None],
    on_holder: Callable[[int], None] = lambda _: None,
    mark_rolled_back: Callable[[str, str], Awaitable[None]] | None = None,
) -> UpgradeAnswer:
    """Ask, for as long as it takes. `on_holder` is told the pid of the mcpkeep that is asked, if one is.

    `mark_rolled_back` tells a workflow session so, with the reason, where this process holds the sessions.

    Raises:
        UpgradeFailed: there is no installation in the workspace, or its mcpkeep cannot be asked.
        ControlError: it went away before it answered.
    """
    layout = find_installation(workspace)
    if layout is None:
        raise UpgradeFailed(
            f"{str(workspace)!r} has no .praxis-os folder",
            remediation="install praxis-os there first, or name another folder with --workspace",
        )
    holder = Holder(layout.own, who="mcpkeep").pid()
    if holder is not None:
        on_holder(holder)
    # Without a holder, too: whoever listens there is to be asked.
    with suppress(FileNotFoundError, ConnectionRefusedError, TimeoutError):
        return await ask_holder(socket_path(layout.own), question, on_step=on_step)
    if holder is not None and not isinstance(question, LOOKS):
        raise UpgradeFailed(
            f"mcpkeep (pid {holder}) serves {str(workspace)!r} and does not answer on its control socket",
            remediation="try again in a moment; if that does not help, restart the IDE's MCP server",
        )
    from mcpkeep.supervisor.upgrade.alone import answer_alone

    return await answer_alone(layout, question, on_step=on_step, mark_rolled_back=mark_rolled_back)
