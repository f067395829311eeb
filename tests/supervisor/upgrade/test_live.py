"""The live server under an upgrade: real processes, real releases, clients that go on calling."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest
from mcp import Client as SdkClient
from mcp import StdioServerParameters
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult

from tests.benchmarks.line import environment
from tests.rpc import LIMIT, Client
from tests.servers import FAST
from tests.supervisor.test_run_replace import more_answers, streaming, unlike_success

DRIVEN = Path(__file__).with_name("driven.py")
SERVER = f"""\
import json, pathlib, runpy, sys
# parser.add_argument("--transport") makes mcpkeep pass it on
assert sys.argv[1:] == ["--transport", "dual"], sys.argv
flags = json.loads((pathlib.Path(__file__).parent / "flags.json").read_text())
sys.argv = [{str(FAST)!r}, *flags]
runpy.run_path({str(FAST)!r}, run_name="__main__")
"""


class Workspace:
    """A workspace with releases, and a socket on which its mcpkeep takes orders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / ".praxis-os"
        self.record = folder / "record"
        self._address = str(folder / "orders")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._address)
        self._socket.listen()
        self._orders: Any = None

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._orders is not None:
            self._orders.close()
        self._socket.close()

    def release(self, name: str, *flags: str, current: bool = False) -> None:
        folder = self.base / ".mcpkeep/releases" / name
        (folder / "mcp_server").mkdir(parents=True)
        (folder / "mcp_server/__main__.py").write_text(SERVER)
        words = ["--version-suffix", f"-{name}", "--record", str(self.record), *flags]
        (folder / "mcp_server/flags.json").write_text(json.dumps(words))
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/bin/python").symlink_to(sys.executable)
        (folder / "release.json").write_text("{}")
        if current:
            (self.base / ".mcpkeep/current").symlink_to(f"releases/{name}")

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(DRIVEN), *options]

    @property
    def env(self) -> dict[str, str]:
        return {"DRIVER": self._address}

    def order(self, *words: object) -> Any:
        """Have the live server do it, and wait for its answer."""
        if self._orders is None:
            self._socket.settimeout(LIMIT)
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(LIMIT)
                self._orders = connection.makefile("rwb")
        self._orders.write(json.dumps(words).encode() + b"\n")
        self._orders.flush()
        return json.loads(self._orders.readline())


@pytest.fixture
def workspace(tmp_path: Path) -> Generator[Workspace]:
    with Workspace(tmp_path) as workspace:
        workspace.release("a", current=True)
        workspace.release("b", "--tools", "echo,whoami,newest")
        yield workspace


@contextmanager
def running(workspace: Workspace, *options: str) -> Generator[Client]:
    with Client(workspace.command(*options), workspace.folder, env=workspace.env) as client:
        client.initialize()
        yield client


def facts(client: Client) -> dict[str, Any]:
    said: dict[str, Any] = client.call("whoami")["result"]["structuredContent"]
    return said


def processes(pid: int) -> psutil.Process:
    return psutil.Process(pid)


def wait_for(client: Client, pid: int, status: str) -> None:
    """Wait until the process has this status."""
    process, deadline = processes(pid), time.monotonic() + LIMIT
    while process.status() != status:
        assert not client.ended and time.monotonic() < deadline
        os.sched_yield()


def test_the_server_starts_from_the_current_release(workspace: Workspace) -> None:
    with running(workspace) as client:
        server = facts(client)
        assert server["version"] == "1.0-a"
        folder = workspace.base.resolve() / ".mcpkeep/releases/a"
        environ = processes(server["pid"]).environ()
        assert (environ["PYTHONPATH"], environ["PYTHONSAFEPATH"]) == (str(folder), "1")
        assert processes(server["pid"]).cmdline()[0] == str(folder / "venv/bin/python")
        assert processes(server["pid"]).cwd() == str(workspace.folder.resolve())
        assert workspace.order("release") == "a"


def test_a_crash_restarts_the_release_that_serves(workspace: Workspace) -> None:
    with running(workspace) as client:
        assert workspace.order("start", "b") == [
            "starting the server of release b",
            "the server of release b is ready",
        ]
        assert workspace.order("promote", False) is None
        client.kill_server()
        assert facts(client)["version"] == "1.0-b"
        client.keep("restart")
        assert facts(client)["version"] == "1.0-b"


def test_a_crash_of_the_old_one_while_another_is_prepared_brings_the_old_one_back(
    workspace: Workspace,
) -> None:
    with running(workspace) as client:
        workspace.order("start", "b")
        client.kill_server()
        assert facts(client)["version"] == "1.0-a"
        workspace.order("promote", True)
        assert facts(client)["version"] == "1.0-b"


def test_calls_go_on_without_a_failure_while_releases_change_places(workspace: Workspace) -> None:
    with running(workspace) as client:
        one = client.pid()
        with streaming(client) as ids:
            for release in ("b", "a", "b"):
                more_answers(client, ids)
                workspace.order("start", release)
                more_answers(client, ids)
                workspace.order("promote", True)
                more_answers(client, ids)
                assert workspace.order("frozen") == {"b": "a", "a": "b"}[release]
        assert unlike_success(client, ids) == []
        wait_for(client, one, psutil.STATUS_STOPPED)
        assert facts(client)["version"] == "1.0-b"
        assert len(workspace.record.read_text().split(" start")) == 3, "each was started once"


def test_a_frozen_server_is_stopped_with_its_group_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        workspace.release("a", "--fork", current=True)
        workspace.release("b")
        with running(workspace) as client:
            old = facts(client)
            workspace.order("start", "b")
            workspace.order("promote", True)
            family = [old["pid"], *old["grandchildren"]]
            for pid in family:
                wait_for(client, pid, psutil.STATUS_STOPPED)
            workspace.order("start", "a")
            assert [processes(pid).status() for pid in family] == [psutil.STATUS_STOPPED] * 2
            workspace.order("promote", False)
            assert facts(client)["pid"] == old["pid"]
            assert psutil.STATUS_STOPPED not in [processes(pid).status() for pid in family]


def test_a_woken_server_is_told_what_the_client_has_set_meanwhile(workspace: Workspace) -> None:
    with running(workspace) as client:
        for uri in ("text:///1", "text:///2"):
            client.answer(client.request("resources/subscribe", {"uri": uri}))
        workspace.order("start", "b")
        workspace.order("promote", True)
        client.answer(client.request("resources/unsubscribe", {"uri": "text:///1"}))
        client.answer(client.request("resources/subscribe", {"uri": "text:///3"}))
        client.answer(client.request("logging/setLevel", {"level": "error"}))
        workspace.order("start", "a")
        workspace.order("promote", False)
        woken = facts(client)
        assert (woken["version"], woken["level"]) == ("1.0-a", "error")
        assert sorted(woken["subscriptions"]) == ["text:///2", "text:///3"]


def test_the_old_server_is_ended_by_sigterm_and_sees_no_end_of_its_input(workspace: Workspace) -> None:
    with running(workspace) as client:
        old, process = client.pid(), processes(client.pid())
        workspace.order("start", "b")
        workspace.order("promote", False)
        assert not process.is_running()
        client.wait_for_log("is ready")
        marks = workspace.record.read_text()
        assert f"{old} start" in marks and f"{old} end" not in marks


def test_an_old_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        (tmp_path / "mcpkeep.toml").write_text("[child]\nstop_term = 0.1\n")
        workspace.release("a", "--ignore-term", current=True)
        workspace.release("b")
        with running(workspace) as client:
            process = processes(client.pid())
            workspace.order("start", "b")
            workspace.order("promote", False)
            assert not process.is_running()


def test_a_release_that_does_not_start_is_told_with_its_last_words_and_the_old_one_serves(
    workspace: Workspace,
) -> None:
    workspace.release("broken", "--die-at-start", "3")
    with running(workspace) as client:
        one = client.pid()
        told = workspace.order("start", "broken")
        assert told == {
            "failed": "release 'broken' exited with code 3",
            "details": {
                "exit_code": 3,
                "signal": None,
                "stderr_tail": ["fast.py: dying at start with code 3"],
            },
        }
        assert workspace.order("promote", False)["failed"] == told["failed"]
        assert "release 'none' could not be started" in workspace.order("start", "none")["failed"]
        assert (facts(client)["pid"], workspace.order("frozen")) == (one, None)


def test_a_dropped_server_ends_and_the_old_one_goes_on(workspace: Workspace) -> None:
    with running(workspace) as client:
        one = client.pid()
        workspace.order("start", "b")
        [two] = [
            child for child in processes(client.process.pid).children() if "releases/b" in child.cmdline()[0]
        ]
        assert workspace.order("drop") is None
        assert workspace.order("drop") is None
        assert not two.is_running()
        assert f"{two.pid} end" not in workspace.record.read_text()
        assert facts(client)["pid"] == one


def test_by_hold_one_ends_before_the_next_starts_and_a_failed_start_brings_the_old_release_back(
    workspace: Workspace,
) -> None:
    workspace.release("broken", "--die-at-start", "3")
    with running(workspace, "--replace", "hold") as client:
        with streaming(client) as ids:
            workspace.order("start", "b")
            assert not client.keep("status")["server"]["ready"]
            workspace.order("promote", True)
            more_answers(client, ids)
            workspace.order("start", "broken")
            more_answers(client, ids)
        assert unlike_success(client, ids) == []
        assert (facts(client)["version"], workspace.order("frozen")) == ("1.0-b", None)
    marks = [line.split()[1] for line in workspace.record.read_text().splitlines() if len(line.split()) == 2]
    assert marks == ["start", "end", "start", "end", "start", "start", "end"]  # the broken one says no end


def test_the_live_servers_tools_are_told_by_digest_and_called(workspace: Workspace) -> None:
    with running(workspace) as client:
        before = workspace.order("tools")
        workspace.order("start", "b")
        assert workspace.order("tools") == before, "those of the one that serves"
        workspace.order("promote", True)
        after = workspace.order("tools")
        assert set(after) == {"echo", "whoami", "newest"}
        assert "mcpkeep" not in before and all(len(digest) == 64 for digest in (before | after).values())
        assert workspace.order("call", "newest")["content"][0]["type"] == "text"
        assert "tools/call failed" in workspace.order("call", "nothing")["failed"]
        said = [message for message in client.said if str(message.get("id", "")).startswith("mcpkeep-")]
        assert said == [], "the client hears nothing of it"


def test_a_server_without_a_client_has_no_tools_to_tell(workspace: Workspace) -> None:
    with Client(workspace.command(), workspace.folder, env=workspace.env):
        assert workspace.order("serving") is False
        assert workspace.order("tools") == {}
        assert "no MCP server is up" in workspace.order("call", "echo")["failed"]


def frozen_pair(workspace: Workspace, client: Client) -> list[psutil.Process]:
    """One that serves and one that is frozen."""
    old = processes(client.pid())
    workspace.order("start", "b")
    workspace.order("promote", True)
    wait_for(client, old.pid, psutil.STATUS_STOPPED)
    return [old, processes(client.pid())]


def test_a_frozen_server_ends_when_it_is_told_to(workspace: Workspace) -> None:
    with running(workspace) as client:
        old, new = frozen_pair(workspace, client)
        workspace.order("end_frozen")
        assert old.wait(LIMIT) is None and new.is_running()
        assert workspace.order("frozen") is None


def test_a_frozen_server_that_is_killed_is_forgotten_with_a_word(workspace: Workspace) -> None:
    with running(workspace) as client:
        old, _ = frozen_pair(workspace, client)
        old.kill()
        client.wait_for_log("the frozen child 1 was killed by SIGKILL; a rollback starts release 'a' anew")
        assert workspace.order("frozen") is None
        workspace.order("start", "a")
        workspace.order("promote", False)
        assert facts(client)["version"] == "1.0-a"


def terminate(client: Client) -> None:
    client.process.terminate()


def kill(client: Client) -> None:
    client.process.kill()


@pytest.mark.parametrize("end", [Client.close_stdin, terminate, kill])
def test_however_mcpkeep_ends_its_frozen_server_ends_too(
    workspace: Workspace, end: Callable[[Client], None]
) -> None:
    with running(workspace) as client:
        pair = frozen_pair(workspace, client)
        end(client)
        client.wait_until_ended()
        for process in pair:
            process.wait(LIMIT)


# With the official SDK


async def elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    return ElicitResult(action="accept", content={})


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_sdk_client_sees_no_failure_while_releases_change_places(
    workspace: Workspace, mode: Any
) -> None:
    command = workspace.command()
    env = environment() | {"HOME": str(workspace.folder / "home")} | workspace.env
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=env, cwd=workspace.folder)
    counts = {"a": 0, "b": 0}
    errors: list[object] = []

    async def call() -> None:
        result = await client.call_tool("whoami")
        if result.is_error or result.structured_content is None:
            errors.append(result)
        else:
            counts[result.structured_content["version"].rpartition("-")[2]] += 1

    async def stream(over: anyio.Event) -> None:
        while not over.is_set():
            await call()

    async def order(*words: object) -> Any:
        return await anyio.to_thread.run_sync(workspace.order, *words)

    with anyio.fail_after(3 * LIMIT):
        async with SdkClient(parameters, mode=mode, elicitation_callback=elicit) as client:
            over = anyio.Event()
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(stream, over)
                for release in ("b", "a", "b"):
                    await order("start", release)
                    await call()
                    await order("promote", True)
                    before = counts[release]
                    while counts[release] < before + 20:
                        await call()
                over.set()
            tools = await client.list_tools()
            assert "newest" in [tool.name for tool in tools.tools]
            asked = await order("elicit")
    assert errors == []
    if mode == "legacy":
        assert asked["action"] == "accept"
    else:
        assert asked == {"failed": "elicitation/create failed: the client takes no such requests"}
