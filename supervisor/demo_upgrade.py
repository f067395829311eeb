"""`mcpkeep demo upgrade`: a small prAxIs OS is upgraded and taken back under a real client's calls."""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpkeep.protocol.upgrade.places import PARTS
from mcpkeep.supervisor.demo_screen import BAR_SPAN, Event, Screen
from mcpkeep.supervisor.demo_stage import (
    RATE,
    DemoFailed,
    Stream,
    broken_promises,
    connect,
    figures_of,
    left_running,
    play,
)
from mcpkeep.supervisor.upgrade.sample import World, make_world

if TYPE_CHECKING:
    from mcp.client import IncomingMessage
    from rich.console import Console

__all__ = ["main"]

OLD, NEW = "v1.1.0", "v2.0.0"
NEW_TOOL = "explain_standard"
CALM, BREATH = 1.2, 0.3
"""Seconds of calls around the upgrade, and after each phase."""
PHASE_LIMIT = 120.0
"""Seconds for one phase."""
_EDITED = "standards/universal/ai-safety/git-safety.md"
_OWN = "standards/development/our-rules.md"
_DELETED = "standards/universal/documentation/windows.md"
_OUR_LINE = "- [ ] Somebody else has read it.\n"


def main(argv: Sequence[str]) -> int:
    """Run the demo; `argv` is what follows `upgrade`. Returns the exit code, as `play` does."""
    about = "Upgrade a small prAxIs OS and take it back, under a real client's calls, and show what it saw."
    return play(argv, name="mcpkeep demo upgrade", about=about, show=_show)


class _Show:
    """The upgrade of one world, as its client goes through it."""

    def __init__(self, world: World, stream: Stream, draw: Callable[[], None], changes: list[float]) -> None:
        self.world, self.stream, self.draw = world, stream, draw
        self.changes = changes
        """When the client was told that the tools changed."""

    async def begin(self, name: str) -> Event:
        event = Event(name, time.monotonic(), pid=self.stream.pid)
        self.stream.events.append(event)
        self.draw()
        return event

    async def calm(self, seconds: float) -> None:
        import anyio

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await anyio.sleep(BAR_SPAN)
            self.stream.events[-1].pid = self.stream.pid
            self.draw()

    async def call(self, tool: str, **arguments: object) -> Mapping[str, Any]:
        result = await self.stream.client.call_tool(tool, arguments, read_timeout_seconds=PHASE_LIMIT)
        said: Mapping[str, Any] = result.structured_content or {}
        if result.is_error or said.get("status") == "error":
            reason = f"{said.get('error')}; {said.get('remediation')}" if said else repr(result.content)
            raise DemoFailed(f"{tool} {arguments.get('action', '')}: {reason}")
        return said

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.stream.client.list_tools()).tools]

    async def run(self) -> None:
        """All of it: six phases, the new tool, and the way back."""
        await self.begin(f"{OLD} serves")
        await self.stream.until(lambda: self.stream.pid is not None, "the first answer")
        old = self.stream.pid
        await self.calm(CALM)
        session = await self.call(
            "pos_workflow",
            action="start",
            workflow_type="praxis_os_upgrade_v1",
            target_file=".praxis-os",
            options={"source_path": str(self.world.source)},
        )
        title: str = session["phase_content"]["title"]
        for number in range(session["total_phases"]):
            event = await self.begin(f"phase {number}: {title}")
            said = await self.phase(session["session_id"], number)
            event.took = time.monotonic() - event.began
            following: Mapping[str, Any] | None = said.get("next_phase")
            title = following["title"] if following else ""
            await self.calm(BREATH)
        await self.stream.until(lambda: self.stream.pid != old, "an answer of the new server")

        await self.begin(f"{NEW} serves")
        await self.stream.until(lambda: bool(self.changes), "the news that the tools changed")
        if NEW_TOOL not in await self.tools():
            raise DemoFailed(f"{NEW_TOOL} is not among the new version's tools")
        await self.call(NEW_TOOL, standard="git-safety")
        await self.calm(CALM)

        new, told = self.stream.pid, len(self.changes)
        event = await self.begin(f"SIGUSR1: back to {OLD}")
        os.kill(int((self.world.base / ".mcpkeep" / "pid").read_text()), signal.SIGUSR1)
        await self.stream.until(lambda: self.stream.pid != new, "an answer of the old server")
        event.took = time.monotonic() - event.began
        await self.stream.until(lambda: len(self.changes) > told, "the news that the tools changed back")
        if NEW_TOOL in await self.tools():
            raise DemoFailed(f"{NEW_TOOL} is still offered after the rollback")
        await self.calm(CALM)

    async def phase(self, session_id: str, number: int) -> Mapping[str, Any]:
        """Complete one phase; its answer."""
        import anyio

        deadline = time.monotonic() + PHASE_LIMIT
        while time.monotonic() < deadline:
            said = await self.call(
                "pos_workflow", action="complete_phase", session_id=session_id, phase=number, evidence={}
            )
            if not said.get("in_progress"):
                return said
            await anyio.sleep(float(said.get("retry_after_seconds", 1)))
        raise DemoFailed(f"phase {number} took longer than {PHASE_LIMIT:g} s")


async def _show(folder: Path, log: Path, console: "Console", as_json: bool) -> bool:
    import anyio

    begun = time.monotonic()
    world = make_world(folder, version=OLD)
    _work_as_a_user(world.base)
    before = _content(world.base)
    changes: list[float] = []

    async def on_message(message: "IncomingMessage") -> None:
        if not isinstance(message, Exception) and message.method == "notifications/tools/list_changed":
            changes.append(time.monotonic())

    env = {**world.environment, "UV_CACHE_DIR": str(folder / "uv"), "HOME": str(folder)}
    async with connect((), world.workspace, log, env=env, on_message=on_message) as client:
        stream = Stream(client, _choose, _read)
        heading = (
            "[bold]client[/] (the official MCP SDK) ⇄ [bold]mcpkeep run[/] ⇄ [bold]a small prAxIs OS[/]   "
            f"{RATE} calls a second, made from nothing in {time.monotonic() - begun:.1f} s"
        )
        screen = Screen(console, stream.events, heading, quiet=as_json, subject="the upgrade", timed=True)
        broken: list[str] = []
        with screen:
            show = _Show(world, stream, screen.show, changes)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.run)
                await show.run()
                stream.stopping = True
            screen.show()
    left = left_running(stream.events)
    broken += broken_promises(stream.events, left) + _lost(before, _content(world.base))
    if as_json:
        figures = {
            "events": [figures_of(event) for event in stream.events],
            "left_running": left,
            "broken_promises": broken,
        }
        print(json.dumps(figures, indent=2))
    else:
        _conclude(console, stream.events, broken)
    return not broken


def _choose(number: int) -> tuple[str, dict[str, object]]:
    if number % 4 == 0:
        return "search_standards", {"query": "how long may I hold a lock"}
    return ("current_date", {}) if number % 4 == 2 else ("get_server_info", {})


def _read(said: Mapping[str, Any]) -> int | None:
    """An answer that came from the files because the index was no use counts as none."""
    if "error" in said or said.get("retrieval_method") == "grep_fallback":
        raise ValueError(str(said.get("error", "the search did not use the index")))
    return int(said["server"]["pid"]) if "server" in said else None


def _work_as_a_user(base: Path) -> None:
    """Edit a file that the new version changes elsewhere, add one, and delete one."""
    with (base / _EDITED).open("a", encoding="utf-8") as file:
        file.write(_OUR_LINE)
    (base / _OWN).write_text("# Our rules\n\nWe name branches after their issues.\n", encoding="utf-8")
    (base / _DELETED).unlink()


def _content(base: Path) -> dict[str, bytes]:
    """What the upgrade changes and the rollback must bring back, and the user's own."""
    folders = [*(base / part.installed for part in PARTS), base / "standards" / "development"]
    return {
        str(path.relative_to(base)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def _lost(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    names = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [f"after the rollback these are not as before: {', '.join(names[:5])}"] if names else []


def _conclude(console: "Console", events: Sequence[Event], broken: Sequence[str]) -> None:
    """Say in words what the table means."""
    if broken:
        console.print("[bold red]Not as promised:[/] " + "; ".join(broken))
        return
    calls = sum(len(event.calls) for event in events)
    longest = max(event.longest for event in events)
    phases = sum(event.took or 0.0 for event in events[1:-2])
    back = events[-1].took or 0.0
    console.print(
        f"[bold green]{calls} calls, none failed[/]; the slowest took {longest * 1e3:.0f} ms. "
        f"Six phases made {NEW} of {OLD} in {phases:.1f} s, and its new tool answered; SIGUSR1 had {OLD} "
        f"back in {back * 1e3:.0f} ms. The session never closed, and no process is left."
    )
    console.print(
        "A standard that was edited, one that was added and one that was deleted by hand are as they were. "
        "In your own workspace: mcpkeep upgrade --source PATH, and mcpkeep rollback.",
        style="dim",
    )
