"""`mcpkeep demo`: a real client calls a real server, which is killed and replaced meanwhile."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpkeep.supervisor import demo_server
from mcpkeep.supervisor.demo_screen import BAR_SPAN, Event, Screen, conclude
from mcpkeep.supervisor.demo_stage import (
    LIMIT,
    RATE,
    DemoFailed,
    Stream,
    broken_promises,
    connect,
    figures_of,
    left_running,
    play,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

CALM = 1.6
"""Seconds of calls after each event."""


def main(argv: Sequence[str]) -> int:
    """Run the demo, or with the word `upgrade` the one of upgrades; returns the exit code, as `play` does."""
    if argv[:1] == ["upgrade"]:
        from mcpkeep.supervisor import demo_upgrade

        return demo_upgrade.main(argv[1:])
    about = (
        "Kill and replace a real MCP server under a real client's calls, and show what it saw. "
        "`mcpkeep demo upgrade` upgrades one instead."
    )
    return play(argv, name="mcpkeep demo", about=about, show=_show)


async def _show(folder: Path, log: Path, console: "Console", as_json: bool) -> bool:
    import anyio

    begun = time.monotonic()
    words = ("--", sys.executable, "-I", "-S", str(Path(demo_server.__file__)))
    async with connect(words, folder, log) as client:
        start = time.monotonic() - begun
        tools = [tool.name for tool in (await client.list_tools()).tools]
        if "mcpkeep" not in tools:
            raise DemoFailed(f"mcpkeep's own tool is not among {tools!r}")
        stream = Stream(client, _choose, _pid)
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
    events = stream.events
    left = left_running(events)
    broken = broken_promises(events, left)
    if as_json:
        figures = {
            "start_seconds": round(start, 4),
            "events": [figures_of(event) for event in events],
            "left_running": left,
            "broken_promises": broken,
        }
        print(json.dumps(figures, indent=2))
    else:
        conclude(console, events, broken)
    return not broken


def _choose(number: int) -> tuple[str, dict[str, object]]:
    return "change" if number % 3 == 0 else "look", {"number": number}


def _pid(said: Mapping[str, Any]) -> int:
    return int(said["pid"])


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
    await stream.until(lambda: stream.pid not in (None, old), f"a new server's answer after {event.name!r}")
    event.pid = stream.pid
    until = time.monotonic() + CALM
    while time.monotonic() < until:
        await anyio.sleep(BAR_SPAN)
        show()
