"""What the installer is asked in upgrades and rollbacks; whoever gives up waiting for it ends its work."""

from contextlib import suppress
from typing import TypeVar

import anyio

from mcpkeep.actors.actor import Actor, ActorError, AskTimedOut
from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import INSTALL_CAP, CancelInstall, InstallerMessage

__all__ = ["INSTALL_LIMIT", "ask_installer"]

INSTALL_LIMIT = INSTALL_CAP + 3600.0
"""Seconds for an answer: the tools end first, and beside them code is copied and interpreters are asked."""

_CANCEL_LIMIT = 300.0
"""Seconds until what was begun is taken back: half a venv has ten thousands of files."""

Answer = TypeVar("Answer")


async def ask_installer(installer: Actor[InstallerMessage], order: Question[Answer]) -> Answer:
    """Its answer. On a cancellation its work, gigabytes from its end perhaps, has ended, too.

    Raises:
        UpgradeFailed: it did not answer; its work has been told to end.
    """
    try:
        return await installer.ask(order, within=INSTALL_LIMIT)
    except AskTimedOut as error:
        await _cancel(installer)
        raise UpgradeFailed(
            f"the installer was not done after {INSTALL_LIMIT / 3600:g} hours, and was told to end",
            remediation="look at the network, the disk and the machine's load, then retry",
        ) from error
    except anyio.get_cancelled_exc_class():
        await _cancel(installer)
        raise


async def _cancel(installer: Actor[InstallerMessage]) -> None:
    with anyio.CancelScope(shield=True), suppress(ActorError):
        await installer.ask(CancelInstall(), within=_CANCEL_LIMIT)
