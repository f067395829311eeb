"""`mcpkeep demo`: a real client calls a real server, which is killed and replaced meanwhile."""

import argparse
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.supervisor import demo_server
from mcpkeep.supervisor.demo_screen import BAR_SPAN, Call, Event, Outcome, Screen, conclude

if TYPE_CHECKING:
    from mcp import Client
    from rich.console import Console

__all__ = ["DemoFailed", "main"]

RATE = 50
"""Calls per second."""
CALM = 1.6
"""Seconds of calls after each event."""
LIMIT = 20.0
"""Seconds for a start or a replacement; a slow machine needs two."""


class DemoFailed(McpkeepError):
    """What the demo is there to show did not happen."""


class Stream:
    """Calls the server at a steady rate and notes what comes back, in the event during which it came."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.events: list[Event] = []
        self.pid: int | None = None
        """The server that answered last."""
        self.stopping = False

    async def run(self) -> None:
        """Call until `stopping` is set, and return when all calls are answered or timed out."""
        import anyio

        async with anyio.create_task_group() as tasks:
            due = anyio.current_time()
            number = 0
            while not self.stopping:
                number += 1
                tasks.start_soon(self._call, "change" if number % 3 == 0 else "look", number)
                due += 1 / RATE
                await anyio.sleep(max(0.0, due - anyio.current_time()))

    async def _call(self, name: str, number: int) -> None:
        from mcp.shared.exceptions import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        sent = time.monotonic()
        pid: int | None = None
        outcome: Outcome = "answered"
        text = ""
        try:
            result = await self.client.call_tool(name, {"number": number}, read_timeout_seconds=LIMIT)
            said: dict[str, Any] = result.structured_content or {}
            if result.is_error or "pid" not in said:
                outcome, text = "failed", repr(result.content)
            else:
                self.pid = pid = int(said["pid"])
        except MCPError as error:
            lost = error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT)
            outcome, text = "lost" if lost else "failed", str(error)
        self.events[-1].calls.append(Call(sent, time.monotonic(), outcome, pid, text))


def main(argv: list[str]) -> int:
    """Run the demo; `argv` is what follows `demo` on the command line.

    Returns:
        0, or 1 where something that mcpkeep promises was not seen, or 2 where the extra is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="mcpkeep demo",
        description="Kill and replace a real MCP server under a real client's calls, and show what it saw.",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    as_json: bool = parser.parse_args(argv).json
    missing = [name for name in ("mcp", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        remedy = f"run `{sys.executable} -m pip install 'mcpkeep[demo]'`"
        print(f"mcpkeep demo needs {' and '.join(missing)}: {remedy}", file=sys.stderr)
        return 2
    try:
        with TemporaryDirectory(prefix="mcpkeep-demo-") as folder:
            return _run(Path(folder), as_json=as_json)
    except DemoFailed as failure:
        print(f"mcpkeep demo failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(folder: Path, *, as_json: bool) -> int:
    import anyio
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = 100
    log = folder / "stderr"
    try:
        events, start = anyio.run(_show, folder, log, console, as_json)
    except DemoFailed as failure:
        raise DemoFailed(f"{failure}{_tail(log)}") from failure
    except Exception as error:  # what the client raises when the session breaks is the SDK's, of many types
        raise DemoFailed(f"the session broke: {_first(error)}{_tail(log)}") from error
    left = _alive({call.pid for event in events for call in event.calls if call.pid is not None})
    broken = _broken(events, left)
    if as_json:
        print(json.dumps(_figures(events, start, left, broken), indent=2))
    else:
        conclude(console, events, broken)
    return 1 if broken else 0


async def _show(folder: Path, log: Path, console: "Console", as_json: bool) -> tuple[list[Event], float]:
    import anyio

    begun = time.monotonic()
    async with _connect(folder, log) as client:
        start = time.monotonic() - begun
        tools = [tool.name for tool in (await client.list_tools()).tools]
        if "mcpkeep" not in tools:
            raise DemoFailed(f"mcpkeep's own tool is not among {tools!r}")
        stream = Stream(client)
        heading = (
            "[bold]client[/] (the official MCP SDK) ⇄ [bold]mcpkeep run[/] ⇄ [bold]server[/]   "
            f"{RATE} calls a second, session open after {start * 1e3:.0f} ms"
        )
        with Screen(console, stream.events, heading, quiet=as_json) as screen:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.run)
                await _scenes(stream, screen.show)
                stream.stopping = True
            screen.show()
    return stream.events, start


async def _scenes(stream: Stream, show: Callable[[], None]) -> None:
    """What happens to the server, one event after the other, each followed by a calm."""
    await _scene(stream, show, Event("start", time.monotonic()))
    for name in ("kill -9", "kill -9 again"):
        await _scene(stream, show, Event(name, time.monotonic(), may_fail=True), kill=True)
    await _scene(stream, show, Event("restart, overlap", time.monotonic()), restart=True)


async def _scene(
    stream: Stream, show: Callable[[], None], event: Event, *, kill: bool = False, restart: bool = False
) -> None:
    import anyio

    old = stream.pid
    stream.events.append(event)
    show()
    if kill and old is not None:
        os.kill(old, signal.SIGKILL)
    if restart:
        result = await stream.client.call_tool("mcpkeep", {"action": "restart"}, read_timeout_seconds=LIMIT)
        if result.is_error:
            raise DemoFailed(f"the restart was refused: {result.content!r}")
    deadline = event.began + LIMIT
    while stream.pid in (None, old):
        if time.monotonic() > deadline:
            raise DemoFailed(f"after {event.name!r} no new server answered within {LIMIT:g} s")
        await anyio.sleep(0.01)
    event.pid = stream.pid
    until = time.monotonic() + CALM
    while time.monotonic() < until:
        await anyio.sleep(BAR_SPAN)
        show()


@asynccontextmanager
async def _connect(folder: Path, log: Path) -> "AsyncGenerator[Client]":
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    command = [
        *("-m", "mcpkeep.supervisor", "run", "--workspace", str(folder), "--"),
        *(sys.executable, "-I", "-S", str(Path(demo_server.__file__))),
    ]
    # The SDK hands on only a few variables; without this one a checkout on PYTHONPATH would not be found.
    env = {"XDG_STATE_HOME": str(folder)}
    if path := os.environ.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    server = StdioServerParameters(command=sys.executable, args=command, env=env, cwd=folder)
    with log.open("w", encoding="utf-8") as errlog:
        async with Client(stdio_client(server, errlog=errlog), read_timeout_seconds=LIMIT) as client:
            yield client


def _alive(pids: set[int]) -> list[int]:
    """Those of the servers that are still running; a dead one that nobody has reaped is not."""
    import psutil

    gone = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    left: list[int] = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() not in gone:
                left.append(pid)
        except psutil.NoSuchProcess:
            continue
    return left


def _broken(events: list[Event], left: list[int]) -> list[str]:
    """What mcpkeep promises and this run did not show."""
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


def _figures(events: list[Event], start: float, left: list[int], broken: list[str]) -> dict[str, object]:
    return {
        "start_seconds": round(start, 4),
        "events": [
            {
                "event": event.name,
                "calls": len(event.calls),
                "answered": event.count("answered"),
                "failed": event.count("failed"),
                "never_answered": event.count("lost"),
                "first_error": event.first_error,
                "longest_delay_seconds": round(event.longest, 4),
                "server_pid": event.pid,
            }
            for event in events
        ],
        "left_running": left,
        "broken_promises": broken,
    }


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] if log.exists() else []
    return "".join(f"\n  {line}" for line in ["; mcpkeep wrote:", *lines]) if lines else ""


def _first(error: BaseException) -> str:
    """The first error that is no group, as text."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return _first(group.exceptions[0])
    return repr(error)
