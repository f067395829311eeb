"""Upgrades through the whole stack: the official client on `mcpkeep run` in a sample world, calls beside."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client, StdioServerParameters
from mcp.client import IncomingMessage
from mcp.client.session import ElicitationFnT
from mcp_types import LoggingMessageNotificationParams

from mcpkeep.protocol.upgrade.places import PARTS
from tests.benchmarks.line import environment
from tests.praxis import World
from tests.rpc import default_signals

__all__ = [
    "LIMIT",
    "NEW_TOOL",
    "PHASES",
    "Answer",
    "Session",
    "Traffic",
    "ask_back",
    "content_of",
    "live_processes",
    "mcpkeep_environment",
    "run_mcpkeep",
    "session_in",
    "start_mcpkeep",
    "tree_of",
    "until_told",
]

LIMIT = 60.0
"""Seconds for any one wait: a hang becomes a failure."""
PHASES = range(6)
NEW_TOOL = "explain_standard"
QUERY = {"query": "how long may I hold a lock"}

Answer = dict[str, Any]


class Session:
    """One client on one mcpkeep, and what it was told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client: Client
        self.changes = 0
        """How often it was told that the tools changed."""
        self.notices: list[str] = []
        """What its log was told."""
        self._told = anyio.Event()

    async def message(self, message: IncomingMessage) -> None:
        if not isinstance(message, Exception) and message.method == "notifications/tools/list_changed":
            self.changes += 1
            self._told.set()
            self._told = anyio.Event()

    async def log(self, params: LoggingMessageNotificationParams) -> None:
        self.notices.append(str(params.data))
        self._told.set()
        self._told = anyio.Event()

    async def until_noticed(self, text: str) -> str:
        """Wait until it was told so in the log; the whole notice."""
        with anyio.fail_after(LIMIT):
            while not (found := [notice for notice in self.notices if text in notice]):
                await self._told.wait()
        return found[0]

    async def until_changed(self, count: int) -> None:
        """Wait until it was told for the `count`th time that the tools changed."""
        with anyio.fail_after(LIMIT):
            while self.changes < count:
                await self._told.wait()

    async def call(self, tool: str, **arguments: object) -> Answer:
        result = await self.client.call_tool(tool, arguments, read_timeout_seconds=LIMIT)
        answer: Answer = result.structured_content or {}
        return answer

    async def keep(self, action: str, **arguments: object) -> Answer:
        return await self.call("mcpkeep", action=action, **arguments)

    async def workflow(self, action: str, **arguments: object) -> Answer:
        return await self.call("pos_workflow", action=action, **arguments)

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def server(self) -> int:
        """The pid of the server that answers."""
        answer = await self.call("get_server_info")
        pid: int = answer["server"]["pid"]
        return pid

    async def start(self, **options: object) -> str:
        """Begin an upgrade from the world's source; the session's id."""
        answer = await self.workflow(
            "start",
            workflow_type="praxis_os_upgrade_v1",
            target_file=self.world.base.name,
            options={"source_path": str(self.world.source), **options},
        )
        assert answer["status"] == "success", answer
        session_id: str = answer["session_id"]
        return session_id

    async def complete(self, session_id: str, phase: int) -> Answer:
        """Make the call until the phase is not in progress any more; its answer, whatever it is."""
        with anyio.fail_after(LIMIT):
            while True:
                answer = await self.workflow(
                    "complete_phase", session_id=session_id, phase=phase, evidence={}
                )
                if not answer.get("in_progress"):
                    return answer

    async def complete_all(self, session_id: str, phases: Sequence[int] = PHASES) -> list[Answer]:
        """Complete these phases, each of which must succeed; the answers."""
        answers: list[Answer] = []
        for phase in phases:
            answers.append(await self.complete(session_id, phase))
            assert answers[-1]["status"] == "success", answers[-1]
        return answers

    async def state(self, session_id: str) -> Answer:
        answer = await self.workflow("get_state", session_id=session_id)
        assert answer["status"] == "success", answer
        return answer

    async def until_rolled_back(self, session_id: str) -> None:
        """Wait until the session says so; its server may be back a moment before."""
        with anyio.fail_after(LIMIT):
            while (await self.state(session_id))["session_status"] != "rolled_back":
                pass

    async def until_held(self) -> None:
        """Wait until an mcpkeep holds the workspace."""
        with anyio.fail_after(LIMIT):
            while not self._pid_file.exists():
                await anyio.lowlevel.checkpoint()

    def holder(self) -> int:
        """The pid of the mcpkeep that holds the workspace."""
        return int(self._pid_file.read_text())

    @property
    def _pid_file(self) -> Path:
        return self.world.base / ".mcpkeep" / "pid"


class Traffic:
    """Calls back to back beside what a test does, two at a time; none of them may fail."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.answered = 0
        self.failures: list[str] = []
        self.pids: list[int] = []
        """The servers that answered, each once in a row, first one first."""
        self._changed = anyio.Event()

    @asynccontextmanager
    async def flowing(self) -> "AsyncGenerator[Traffic]":
        async with anyio.create_task_group() as tasks:
            scope = tasks.cancel_scope
            stop = anyio.Event()
            for number in range(2):
                tasks.start_soon(self._flow, number, stop)
            try:
                yield self
            except BaseException:
                scope.cancel()
                raise
            stop.set()

    async def until_answered_by(self, condition: Callable[[int], bool]) -> int:
        """Wait until the server that answered last fits; its pid."""
        with anyio.fail_after(LIMIT):
            while not self.pids or not condition(self.pids[-1]):
                await self._changed.wait()
        return self.pids[-1]

    async def _flow(self, number: int, stop: anyio.Event) -> None:
        calls: tuple[tuple[str, Mapping[str, object]], ...] = (
            ("search_standards", QUERY),
            ("current_date", {}),
            ("get_server_info", {}),
        )
        while not stop.is_set():
            number += 1
            tool, arguments = calls[number % 3]
            try:
                result = await self._session.client.call_tool(
                    tool, dict(arguments), read_timeout_seconds=LIMIT
                )
            except Exception as error:  # the SDK's, of many types
                self.failures.append(f"{tool}: {error!r}")
                continue
            self._take(tool, result.is_error, result.structured_content or {})

    def _take(self, tool: str, is_error: bool, said: Mapping[str, Any]) -> None:
        wrong = is_error or "error" in said or said.get("retrieval_method", "vector") != "vector"
        if wrong:
            self.failures.append(f"{tool}: {said}")
        else:
            self.answered += 1
        pid = said["server"]["pid"] if "server" in said else None
        if pid is not None and self.pids[-1:] != [pid]:
            self.pids.append(pid)
            self._changed.set()
            self._changed = anyio.Event()


def mcpkeep_environment(world: World) -> dict[str, str]:
    """For an mcpkeep in that world: packages from its own folder, nothing from or to the user's home."""
    home = world.workspace.parent / "home"
    home.mkdir(exist_ok=True)
    return {
        **environment(),
        **world.environment,
        "HOME": str(home),
        "XDG_STATE_HOME": str(home),
        "UV_CACHE_DIR": str(home / "uv"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@asynccontextmanager
async def session_in(
    world: World, command: Sequence[str] | None = None, *, elicit: ElicitationFnT | None = None
) -> AsyncGenerator[Session]:
    """The official client on an mcpkeep that finds the sample's server by itself, or on that command.

    `elicit` is its user.
    """
    session = Session(world)
    usual = (sys.executable, "-m", "mcpkeep.supervisor", "run", "--workspace", str(world.workspace))
    program, *words = command or usual
    server = StdioServerParameters(
        command=program, args=words, env=mcpkeep_environment(world), cwd=world.workspace
    )
    async with Client(
        server,
        mode="legacy",
        read_timeout_seconds=LIMIT,
        message_handler=session.message,
        logging_callback=session.log,
        elicitation_callback=elicit,
    ) as session.client:
        if command is None:  # the first answer comes before the workspace is held
            await session.until_held()
        yield session


def run_mcpkeep(world: World, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command of mcpkeep in the world's workspace, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "mcpkeep.supervisor", *words],
        cwd=world.workspace,
        env=mcpkeep_environment(world),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT * 2,
    )


def start_mcpkeep(world: World, *words: str) -> "subprocess.Popen[str]":
    """The same, to be spoken to while it runs."""
    return subprocess.Popen(
        [sys.executable, "-m", "mcpkeep.supervisor", *words],
        cwd=world.workspace,
        env=mcpkeep_environment(world),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=default_signals,
        text=True,
    )


def until_told(process: "subprocess.Popen[str]", text: str) -> str:
    """Read its stderr up to that; what came."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} did not come: {said}")


def content_of(world: World) -> dict[str, bytes]:
    """Everything that an upgrade may change, and the user's own: by path relative to the installation."""
    base = world.base
    folders = [*(base / part.installed for part in PARTS), base / "standards" / "development"]
    return {
        str(path.relative_to(base)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def tree_of(folder: Path) -> dict[str, tuple[int, int]]:
    """All that stands in a folder: each path's mode and time of change."""
    found: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (stat.st_mode, stat.st_mtime_ns)
    return found


def live_processes(world: World) -> list[str]:
    """The command lines of what runs in that world, and does not come to its end by itself."""
    left = psutil.wait_procs(_processes_in(world.workspace.parent), timeout=LIMIT)[1]
    return [" ".join(process.cmdline()) for process in left]


def _processes_in(folder: Path) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def ask_back(session: Session) -> None:
    """Ask the mcpkeep of that session by a signal to go back."""
    os.kill(session.holder(), signal.SIGUSR1)
