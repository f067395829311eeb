"""Upgrades where no mcpkeep runs: the actor lives for one question; a server is booted only to be tried."""

import os
import secrets
from collections.abc import Awaitable, Callable

import anyio.to_thread

from mcpkeep.protocol.arguments import arguments_of
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.config import resolve
from mcpkeep.protocol.upgrade.request import (
    LOOKS,
    MakePlan,
    RollBack,
    RunPhase,
    RunUpgrade,
    UndoPhases,
    UpgradeAnswer,
    UpgradeMessage,
)
from mcpkeep.supervisor.config import find_config, read_config
from mcpkeep.supervisor.orphans import Watcher
from mcpkeep.supervisor.session_marks import GONE_BACK, mark_session_rolled_back
from mcpkeep.supervisor.upgrade.direct import DirectServer
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.unkept import refuse_unkept
from mcpkeep.supervisor.upgrade.world import (
    ask_upgrade,
    make_parts,
    recover_installation,
    running_upgrades,
)

__all__ = ["answer_alone"]

_CHANGES = (RunUpgrade, RunPhase, UndoPhases, RollBack)
"""What swaps files that a server works with, or boots one beside it."""


async def answer_alone(
    layout: Layout,
    question: UpgradeMessage,
    *,
    on_step: Callable[[str, str], None],
    mark_rolled_back: Callable[[str, str], Awaitable[None]] | None = None,
) -> UpgradeAnswer:
    """Answer one question on the workspace itself; what was interrupted before is recovered first.

    Raises UpgradeFailed where a server that runs without mcpkeep would be changed beneath its client.
    """
    path, _ = find_config(str(layout.workspace))
    settings = resolve(read_config(path) if path else None, environ=os.environ, flags={}).settings
    parts, child_env = make_parts(layout), settings.child.env
    arguments = arguments_of(settings.child.command)
    mark = mark_rolled_back or mark_session_rolled_back(layout.workspace)
    said: tuple[str, ...] = ()
    # A plan that an upgrade follows is made of what will stand there.
    leads_on = isinstance(question, MakePlan) and not question.options.dry_run
    if leads_on or isinstance(question, _CHANGES):
        await anyio.to_thread.run_sync(refuse_unkept, layout)
    if leads_on or not isinstance(question, LOOKS):
        recovered = await anyio.to_thread.run_sync(recover_installation, parts)
        said = recovered.said
        for sentence in said:
            on_step("", sentence)
        for session_id in recovered.gone_back:
            await mark(session_id, GONE_BACK)

    def tell(notify: Notify) -> None:
        if notify.level != "info":  # such as each step, of which `on_step` hears
            on_step("", notify.text)

    run_id = secrets.token_hex(16)
    watcher = Watcher(run_id)
    try:
        await anyio.to_thread.run_sync(watcher.ready)
        async with (
            DirectServer(
                layout, run_id=run_id, environ={**os.environ, **child_env}, arguments=arguments
            ) as live,
            running_upgrades(
                parts,
                settings.upgrade,
                live=live,
                run_id=run_id,
                child_env=child_env,
                recovered=said,
                arguments=arguments,
                notify=tell,
                heard=lambda line: None,
                mark_rolled_back=mark,
            ) as upgrade,
        ):
            return await ask_upgrade(upgrade, question, on_step)
    finally:
        parts.lock.leave()
        watcher.close()
