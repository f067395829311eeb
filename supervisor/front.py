"""What serves a client before the task tree is there: the relay and its two wires, which need no tasks."""

import asyncio
import signal
from types import FrameType

from mcpkeep.actors.wires import RelayWires
from mcpkeep.protocol.keep import KEEP_TOOL
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.output import Logged
from mcpkeep.protocol.relay.relay import Relay, RelaySettings
from mcpkeep.protocol.relay.tools import OwnTool
from mcpkeep.protocol.switch import ChildAttached
from mcpkeep.supervisor.child_wire import connect_child
from mcpkeep.supervisor.log import log_at
from mcpkeep.supervisor.loop import HotLoop
from mcpkeep.supervisor.options import RunOptions
from mcpkeep.supervisor.process import Spawned
from mcpkeep.supervisor.run import ending_signals
from mcpkeep.supervisor.wire import FdWire
from mcpkeep.supervisor.workspace import offers_workflows

__all__ = ["Front"]

_FEW_CALLS = 1
"""In flight, up to which the next message is worth being looked for."""


class Front:
    """The client, the first child and the relay between them. To be made in the running event loop."""

    def __init__(self, options: RunOptions, run_id: str, first: Spawned | None) -> None:
        """Connect the client, and the first child if there is one, and pass on what they say."""
        settings = options.settings
        offered = offers_workflows(settings.workflow.enabled, options.workspace)
        self.workflows_of = options.workspace if offered else None
        """The workspace whose workflows `pos_workflow` offers; decided once, whatever folders come later."""
        self.tools = _own_tools(upgrades=options.base is not None, workflows=offered)
        """The relay's own tools: `mcpkeep`, and `pos_workflow` where it is offered."""
        self.relay = Relay(
            own_tools=self.tools,
            settings=RelaySettings(
                hold=settings.limits.hold,
                overlay=settings.relay.overlay,
                max_message=settings.limits.max_message,
                health=HealthSettings(*settings.health),
            ),
            own_prefix=f"mcpkeep-{run_id[:12]}/",
        )
        self.wires = wires = RelayWires(
            self.relay,
            log=_log_relay,
            max_message=settings.limits.max_message,
            max_request=settings.limits.max_request,
        )
        loop = asyncio.get_running_loop()
        if isinstance(loop, HotLoop):
            table = self.relay.calls.table
            loop.poll_busily_while(lambda: len(table) <= _FEW_CALLS)
        self.client = FdWire(
            0,
            1,
            on_data=wires.client_data,
            on_eof=wires.client_eof,
            on_broken=wires.client_broken,
            on_writable=wires.client_writable,
        )
        wires.connect_client(self.client)
        self.first: tuple[Spawned, FdWire] | None = None
        """The first child and its wire."""
        if first is not None:
            self.first = first, connect_child(wires, first)
            wires.order(ChildAttached(first.generation))
        self.signals: list[int] = []
        """What came meanwhile, for the tree to heed."""
        self._ending = ending_signals()
        for number in (*self._ending, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._note_signal)
        self.client.open()

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        if number in self._ending and any(former in self._ending for former in self.signals):
            raise SystemExit(128 + number)
        self.signals.append(number)


def _log_relay(logged: Logged) -> None:
    log_at(logged.level, logged.text)


def _own_tools(*, upgrades: bool, workflows: bool) -> tuple[OwnTool, ...]:
    # Each only where it is offered: the schemas come from types whose import delays the first answer.
    keep = KEEP_TOOL
    if upgrades:
        from mcpkeep.protocol.upgrade.tool import KEEP_TOOL_WITH_UPGRADES

        keep = KEEP_TOOL_WITH_UPGRADES
    if not workflows:
        return (keep,)
    from mcpkeep.protocol.workflow.tool import WORKFLOW_TOOL

    return (keep, WORKFLOW_TOOL)
