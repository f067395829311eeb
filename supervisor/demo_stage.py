"""What the demos share: a client on a real mcpkeep, a steady stream of calls, and a word when it breaks."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.supervisor.demo_screen import Call, Event, Outcome

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client.session import MessageHandlerFnT
    from rich.console import Console

__all__ = [
    "LIMIT",
    "RATE",
    "DemoFailed",
    "Stream",
    "broken_promises",
    "connect",
    "figures_of",
    "left_running",
    "play",
]

RATE = 50
"""Calls per second."""
LIMIT = 20.0
"""Seconds for a start, a replacement or one answer; a slow machine needs two."""

Choose = Callable[[int], tuple[str, Mapping[str, object]]]
"""The tool and the arguments of the call of that number, from 1."""
Read = Callable[[Mapping[str, Any]], int | None]
"""The pid in an answer, None where it tells none. Raises ValueError for an answer that is none."""


class DemoFailed(McpkeepError):
    """What the demo is there to show did not happen."""


class Stream:
    """Calls the server at a steady rate and notes what comes back, in the event during which it came."""

    def __init__(self, client: "Client", choose: Choose, read: Read) -> None:
        import anyio

        self.client = client
        self.events: list[Event] = []
        self.pid: int | None = None
        """The server that answered last."""
        self.stopping = False
        self._choose, self._read = choose, read
        self._answered = anyio.Event()

    async def run(self) -> None:
        """Call until `stopping` is set, and return when all calls are answered or timed out."""
        import anyio

        async with anyio.create_task_group() as tasks:
            due = anyio.current_time()
            number = 0
            while not self.stopping:
                number += 1
                tasks.start_soon(self._call, *self._choose(number))
                due += 1 / RATE
                await anyio.sleep(max(0.0, due - anyio.current_time()))

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look after each answer whether `condition` holds; raises DemoFailed where `what` does not come."""
        import anyio

        with anyio.move_on_after(LIMIT):
            while not condition():
                await self._answered.wait()
            return
        raise DemoFailed(f"{what} did not come within {LIMIT:g} s")

    async def _call(self, name: str, arguments: Mapping[str, object]) -> None:
        import anyio
        from mcp.shared.exceptions import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        sent = time.monotonic()
        pid: int | None = None
        outcome: Outcome = "answered"
        text = ""
        try:
            result = await self.client.call_tool(name, dict(arguments), read_timeout_seconds=LIMIT)
            if result.is_error or result.structured_content is None:
                raise ValueError(repr(result.content))
            pid = self._read(result.structured_content)
            self.pid = self.pid if pid is None else pid
        except MCPError as error:
            lost = error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT)
            outcome, text = "lost" if lost else "failed", str(error)
        except ValueError as error:
            outcome, text = "failed", str(error)
        self.events[-1].calls.append(Call(sent, time.monotonic(), outcome, pid, text))
        self._answered.set()
        self._answered = anyio.Event()


def play(
    argv: Sequence[str],
    *,
    name: str,
    about: str,
    show: "Callable[[Path, Path, Console, bool], Awaitable[bool]]",
) -> int:
    """Run a demo in a folder of its own; `argv` is what follows `name` on the command line.

    `show` gets the folder, the file that takes mcpkeep's stderr, a console, and whether JSON is asked for; it
    answers whether every promise was kept.

    Returns:
        0, or 1 where something that mcpkeep promises was not seen, or 2 where the extra is not installed.
    """
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    as_json: bool = parser.parse_args(argv).json
    missing = [module for module in ("mcp", "rich") if importlib.util.find_spec(module) is None]
    if missing:
        remedy = f"run `{sys.executable} -m pip install 'mcpkeep[demo]'`"
        print(f"{name} needs {' and '.join(missing)}: {remedy}", file=sys.stderr)
        return 2
    import anyio
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = 100
    with TemporaryDirectory(prefix="mcpkeep-demo-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "stderr"
        try:
            return 0 if anyio.run(show, Path(folder), log, console, as_json) else 1
        except KeyboardInterrupt:
            return 130
        except (
            Exception
        ) as error:  # what the client raises when the session breaks is the SDK's, of many types
            first = _first(error)
            text = str(first) if isinstance(first, DemoFailed) else f"the session broke: {first!r}"
            print(f"{name} failed: {text}{_tail(log)}", file=sys.stderr)
            return 1


@asynccontextmanager
async def connect(
    words: Sequence[str],
    folder: Path,
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    on_message: "MessageHandlerFnT | None" = None,
) -> "AsyncGenerator[Client]":
    """The official client on `mcpkeep run` with these words, in that folder."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    command = ["-m", "mcpkeep.supervisor", "run", "--workspace", str(folder), *words]
    # The SDK hands on only a few variables; without this one a checkout on PYTHONPATH would not be found.
    env = {"XDG_STATE_HOME": str(log.parent), **(env or {})}
    if path := os.environ.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    server = StdioServerParameters(command=sys.executable, args=command, env=env, cwd=folder)
    with log.open("w", encoding="utf-8") as errlog:
        transport = stdio_client(server, errlog=errlog)
        async with Client(transport, read_timeout_seconds=LIMIT, message_handler=on_message) as client:
            yield client


def broken_promises(events: Sequence[Event], left: Sequence[int]) -> list[str]:
    """What mcpkeep promises of calls and processes, and these events did not show."""
    broken = [
        f"{event.name}: {event.count('failed')} calls failed, such as with {event.first_error!r}"
        for event in events
        if event.count("failed") and not event.may_fail
    ]
    broken += [
        f"{event.name}: {event.count('lost')} calls were never answered"
        for event in events
        if event.count("lost")
    ]
    if left:
        broken.append(f"still running: {', '.join(map(str, left))}")
    return broken


def left_running(events: Iterable[Event]) -> list[int]:
    """Those of the servers that still run; a dead one that nobody has reaped does not. After the session."""
    import psutil

    gone = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    left: list[int] = []
    for pid in {call.pid for event in events for call in event.calls if call.pid is not None}:
        try:
            if psutil.Process(pid).status() not in gone:
                left.append(pid)
        except psutil.NoSuchProcess:
            continue
    return left


def figures_of(event: Event) -> dict[str, object]:
    """One event for JSON."""
    return {
        "event": event.name,
        "calls": len(event.calls),
        "answered": event.count("answered"),
        "failed": event.count("failed"),
        "never_answered": event.count("lost"),
        "first_error": event.first_error,
        "longest_delay_seconds": round(event.longest, 4),
        "server_pid": event.pid,
        **({} if event.took is None else {"seconds": round(event.took, 4)}),
    }


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] if log.exists() else []
    return "".join(f"\n  {line}" for line in ["; mcpkeep wrote:", *lines]) if lines else ""


def _first(error: BaseException) -> BaseException:
    """The first error that is no group."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return _first(group.exceptions[0])
    return error
