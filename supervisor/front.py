"""`mcpkeep run` once its first child runs: the relay serves the client at once, and the task tree joins it.

Whoever waits for the answer to `initialize` waits for imports most of all. So the relay and its two wires,
which need neither tasks nor actors, begin alone, while a thread imports the tree.
"""

import asyncio
import importlib
import logging
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from mcpkeep.actors.wires import RelayWires
from mcpkeep.protocol.keep import KEEP_TOOL
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.output import Logged
from mcpkeep.protocol.relay.relay import Relay, RelaySettings
from mcpkeep.protocol.relay.tools import OwnTool
from mcpkeep.protocol.switch import ChildAttached
from mcpkeep.supervisor.child_wire import connect_child
from mcpkeep.supervisor.log import log_at, start_logging
from mcpkeep.supervisor.loop import HotLoop, new_loop
from mcpkeep.supervisor.options import RunOptions
from mcpkeep.supervisor.process import Spawned
from mcpkeep.supervisor.run import ending_signals
from mcpkeep.supervisor.wire import FdWire
from mcpkeep.supervisor.workspace import offers_workflows

__all__ = ["Front", "serve"]

_FEW_CALLS = 1
"""In flight, up to which the next message is worth being looked for."""

_TREE = ("anyio._backends._asyncio", "mcpkeep.supervisor.tree")

_log = logging.getLogger("mcpkeep")


def serve(options: RunOptions, run_id: str, first: Spawned | None) -> int:
    """Serve until the client ends or a signal says so; the exit code."""
    log = options.settings.log
    logs = start_logging(
        level=log.level, format=log.format, file=options.log_file, max_bytes=log.max_bytes, keep=log.keep
    )
    for warning in options.warnings:
        _log.warning(warning)
    with suppress(ImportError):  # as anyio.run does: so anyio knows the loop outside tasks too
        from sniffio import current_async_library_cvar

        current_async_library_cvar.set("asyncio")
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(options, run_id, first))
    except Exception:
        _log.critical("mcpkeep ends by a bug of its own", exc_info=True)
        return 1
    finally:
        logs.close()


async def _serve(options: RunOptions, run_id: str, first: Spawned | None) -> int:
    front = Front(options, run_id, first)
    await _import_beside(_TREE if options.base is None else (*_TREE, "mcpkeep.supervisor.upgrade.wiring"))
    from mcpkeep.supervisor.tree import serve_tree

    return await serve_tree(options, run_id, front)


async def _import_beside(modules: Sequence[str]) -> None:
    """Import them in a thread; what fails there fails again where it is needed."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        with suppress(ImportError):
            for module in modules:
                importlib.import_module(module)
        with suppress(RuntimeError):  # a signal has ended the loop
            loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=run, name="imports", daemon=True).start()
    await done


class Front:
    """The client, the first child and the relay between them. To be made in the running event loop."""

    def __init__(self, options: RunOptions, run_id: str, first: Spawned | None) -> None:
        """Connect the client, and the first child if there is one, and pass on what they say."""
        settings = options.settings
        self.tools = _own_tools(options)
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


def _own_tools(options: RunOptions) -> tuple[OwnTool, ...]:
    # Each only where it is offered: the schemas come from types whose import delays the first answer.
    keep = KEEP_TOOL
    if options.base is not None:
        from mcpkeep.protocol.upgrade.tool import KEEP_TOOL_WITH_UPGRADES

        keep = KEEP_TOOL_WITH_UPGRADES
    if not offers_workflows(options.settings.workflow.enabled, options.workspace):
        return (keep,)
    from mcpkeep.protocol.workflow.tool import WORKFLOW_TOOL

    return (keep, WORKFLOW_TOOL)
