"""Ties upgrades to a running mcpkeep: the server that is switched, the tools that ask, the workflow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mcpkeep.actors.child import ChildActor
from mcpkeep.actors.elicitation import Elicitation
from mcpkeep.actors.keep_upgrade import KeepUpgrades
from mcpkeep.actors.relay import RelayActor
from mcpkeep.protocol.child import Notify
from mcpkeep.supervisor.local import LocalHost
from mcpkeep.supervisor.moves import Moves
from mcpkeep.supervisor.options import RunOptions
from mcpkeep.supervisor.upgrade.following import FollowingServer
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.live import RunningServer
from mcpkeep.supervisor.upgrade.running import Upgrades
from mcpkeep.supervisor.workflow import Workflows

if TYPE_CHECKING:
    from mcpkeep.actors.phase_runs import PhaseRunner

__all__ = ["UpgradeWiring", "upgrade_runners", "wire_upgrades"]


class UpgradeWiring(NamedTuple):
    """What the task tree runs and asks."""

    upgrades: Upgrades
    tool: KeepUpgrades


def wire_upgrades(
    options: RunOptions,
    *,
    run_id: str,
    child: ChildActor,
    relay: RelayActor,
    host: LocalHost,
    notify: Callable[[Notify], None],
    tell_next: Callable[[Notify], None],
    workflows: Workflows | None,
) -> UpgradeWiring | None:
    """None where the server is not that of an installation in the workspace."""
    if options.workspace is None or options.base is None:
        return None
    layout = find_installation(Path(options.workspace))
    if layout is None:
        return None

    async def mark(session_id: str, reason: str) -> None:
        if workflows is not None:
            await workflows.mark_rolled_back(session_id, reason)

    settings, moves = options.settings.child, Moves()
    live = RunningServer(
        child=child,
        relay=relay,
        stderr_lines=host.stderr_lines,
        start_limit=settings.start_limit + settings.drain_grace,
        stop_limit=settings.stop_eof + settings.stop_term,
        moved=moves.tell,
    )
    upgrades = Upgrades(
        layout,
        options.settings.upgrade,
        live=live,
        following=FollowingServer(layout, live, recognised=options.recognised, notify=notify),
        moves=moves,
        run_id=run_id,
        child_env=settings.env,
        started=options.started,
        notify=notify,
        tell_next=tell_next,
        mark_rolled_back=mark,
    )
    tool = KeepUpgrades(upgrades.ask, status=upgrades.status, user=Elicitation(relay))
    return UpgradeWiring(upgrades, tool)


def upgrade_runners(upgrades: Upgrades) -> "Mapping[str, PhaseRunner]":
    """Who runs the phases of the upgrade workflow."""
    from mcpkeep.actors.upgrade_runner import WORKFLOW_TYPE, UpgradeRunner

    return {WORKFLOW_TYPE: UpgradeRunner(upgrades.ask, lock_owner=upgrades.lock_owner)}
