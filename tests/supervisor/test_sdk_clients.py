"""The official Python SDK, client and server, in both eras, cannot tell mcpkeep from a direct connection.

With MCPKEEP_TEST_DIRECT=1 mcpkeep is left out, and what only it can do: so the tests check themselves.
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client import ClientRequestContext, IncomingMessage
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    ListRootsResult,
    LoggingMessageNotificationParams,
    PromptReference,
    Root,
    TextContent,
    TextResourceContents,
)

from tests.benchmarks.line import environment, mcpkeep_command
from tests.servers import fast_command, sdk_command

Mode = Literal["legacy", "auto"]
DIRECT = os.environ.get("MCPKEEP_TEST_DIRECT") == "1"
LIMIT = 60.0
"""Seconds for any one wait: a hang becomes a failure."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]
through_mcpkeep = pytest.mark.skipif(DIRECT, reason="nothing survives the server without mcpkeep")
both_eras = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Told:
    """What the server told the client of its own accord."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.logs: list[Any] = []
        self._changed = anyio.Event()

    async def message(self, message: IncomingMessage) -> None:
        if not isinstance(message, Exception):
            self.methods.append(message.method)
            self._wake()

    async def log(self, params: LoggingMessageNotificationParams) -> None:
        if params.logger != "mcpkeep":
            self.logs.append(params.data)
            self._wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(LIMIT):
            while not condition():
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def sample(context: ClientRequestContext, params: CreateMessageRequestParams) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", model="a model", content=TextContent(text="nothing"))


async def elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    return ElicitResult(action="accept", content={"colour": "blue"})


async def roots(context: ClientRequestContext) -> ListRootsResult:
    return ListRootsResult(roots=[Root.model_validate({"uri": "file:///a/root"})])


@asynccontextmanager
async def connected(
    mode: Mode, cwd: Path, server: list[str], told: Told | None = None
) -> AsyncGenerator[Client]:
    told = told or Told()
    command = server if DIRECT else mcpkeep_command(server)
    env = environment() | {"XDG_STATE_HOME": str(cwd)}
    client = Client(
        StdioServerParameters(command=command[0], args=command[1:], env=env, cwd=cwd),
        mode=mode,
        read_timeout_seconds=LIMIT,
        sampling_callback=sample,
        elicitation_callback=elicit,
        list_roots_callback=roots,
        logging_callback=told.log,
        log_level="debug",
        message_handler=told.message,
    )
    async with client:
        yield client


async def text(client: Client, tool: str, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    assert isinstance(content, TextContent) and not result.is_error
    return content.text


async def facts(client: Client) -> dict[str, Any]:
    result = await client.call_tool("whoami")
    said: dict[str, Any] = result.structured_content or {}
    return said


async def kill(client: Client) -> int:
    """SIGKILL the server, and wait until it is gone: for an instant more it may read; the pid it had."""
    process = psutil.Process((await facts(client))["pid"])
    process.kill()
    await anyio.to_thread.run_sync(process.wait, LIMIT)
    return process.pid


async def begun(fifo: Path) -> int:
    """Wait until the server waits in the FIFO; closing what is returned lets it answer."""
    with anyio.fail_after(LIMIT):
        return await anyio.to_thread.run_sync(os.open, fifo, os.O_WRONLY, abandon_on_cancel=True)


async def exercise(client: Client, told: Told) -> dict[str, object]:
    """Use each feature once; what came of it, without what differs from process to process."""
    told.logs.clear()
    reported: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    stepped = await client.call_tool("steps", {"count": 3}, progress_callback=on_progress)
    await told.until(lambda: len(told.logs) == 3)
    read = (await client.read_resource("note://one")).contents[0]
    by_name = (await client.read_resource("note://by-name/ada")).contents[0]
    prompt = (await client.get_prompt("greet", {"name": "Ada"})).messages[0].content
    completed = await client.complete(PromptReference(name="greet"), {"name": "name", "value": "al"})
    assert isinstance(read, TextResourceContents) and isinstance(by_name, TextResourceContents)
    assert isinstance(prompt, TextContent)
    return {
        "tools": [tool.name for tool in (await client.list_tools()).tools],
        "resources": [resource.uri for resource in (await client.list_resources()).resources],
        "templates": [
            template.uri_template for template in (await client.list_resource_templates()).resource_templates
        ],
        "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
        "add": (await client.call_tool("add", {"a": 2, "b": 40})).structured_content,
        "steps": stepped.structured_content,
        "progress": reported,
        "logs": list(told.logs),
        "read": [read.text, by_name.text],
        "prompt": prompt.text,
        "completion": completed.completion.values,
        "elicitation": await text(client, "colour"),
        "sampling": await text(client, "sample"),
        "roots": await text(client, "roots"),
    }


EXERCISED = {
    "tools": [
        *("add", "whoami", "steps", "wait", "colour", "sample", "roots", "touch", "grow"),
        *([] if DIRECT else ["mcpkeep"]),
    ],
    "resources": ["note://one"],
    "templates": ["note://by-name/{name}"],
    "prompts": ["greet"],
    "add": {"result": 42},
    "steps": {"result": "3 steps"},
    "progress": [(1.0, 3.0, "step 1"), (2.0, 3.0, "step 2"), (3.0, 3.0, "step 3")],
    "logs": ["step 1", "step 2", "step 3"],
    "read": ["the first note", "a note by ada"],
    "prompt": "Say hello to Ada",
    "completion": ["alice", "albert"],
    "elicitation": "the user likes blue",
    "sampling": "a model said nothing",
    "roots": "file:///a/root",
}


@both_eras
async def test_every_feature_works_as_directly_and_again_after_the_server_was_killed(
    mode: Mode, tmp_path: Path
) -> None:
    told = Told()
    async with connected(mode, tmp_path, sdk_command(), told) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        assert await exercise(client, told) == EXERCISED
        if not DIRECT:
            await kill(client)
            assert await exercise(client, told) == EXERCISED


async def test_legacy_subscriptions_and_the_log_level_are_there_after_the_server_was_killed(
    tmp_path: Path,
) -> None:
    told = Told()
    updated = "notifications/resources/updated"
    async with connected("legacy", tmp_path, sdk_command(), told) as client:
        await client.subscribe_resource("note://one")  # pyright: ignore[reportDeprecated]
        await client.set_logging_level("warning")  # pyright: ignore[reportDeprecated]
        await text(client, "touch", uri="note://one")
        await told.until(lambda: told.methods.count(updated) == 1)
        if DIRECT:
            return
        pid = await kill(client)
        # One comes by itself, since the resource may have changed meanwhile; the other from the new server.
        await told.until(lambda: told.methods.count(updated) == 2)
        await text(client, "touch", uri="note://one")
        await told.until(lambda: told.methods.count(updated) == 3)
        now = await facts(client)
        assert now == {"pid": now["pid"], "subscribed": ["note://one"], "level": "warning"}
        assert now["pid"] != pid


async def test_a_modern_subscription_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    async with (
        connected("auto", tmp_path, sdk_command()) as client,
        client.listen(tools_list_changed=True, resource_subscriptions=["note://one"]) as events,
    ):
        with anyio.fail_after(LIMIT):
            await text(client, "touch", uri="note://one")
            assert await anext(events) == ResourceUpdated(uri="note://one")
            await text(client, "grow", name="grown")
            assert await anext(events) == ToolsListChanged()
            if DIRECT:
                return
            await kill(client)
            assert await anext(events) in (ToolsListChanged(), ResourceUpdated(uri="note://one"))
            await text(client, "touch", uri="note://one")
            while await anext(events) != ResourceUpdated(uri="note://one"):
                pass


@through_mcpkeep
@both_eras
async def test_a_server_that_comes_back_with_other_tools_is_told_as_list_changed(
    mode: Mode, tmp_path: Path
) -> None:
    told = Told()
    async with connected(mode, tmp_path, sdk_command(), told) as client:
        await client.list_tools()
        await text(client, "grow", name="grown")
        assert "grown" in [tool.name for tool in (await client.list_tools()).tools]
        told.methods.clear()
        await kill(client)
        if mode == "legacy":
            await told.until(lambda: "notifications/tools/list_changed" in told.methods)
        assert "grown" not in [tool.name for tool in (await client.list_tools()).tools]


@both_eras
async def test_a_cancelled_call_is_cancelled_at_the_server(mode: Mode, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with connected(mode, tmp_path, fast_command()) as client:
        gates: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "wait", {"fifo": str(fifo)})
            gates.append(await begun(fifo))
            tasks.cancel_scope.cancel()
        cancelled = (await facts(client))["cancelled"]
        os.close(*gates)
        assert len(cancelled) == 1


@through_mcpkeep
@both_eras
async def test_a_call_that_the_killed_server_had_taken_is_answered_with_an_error_that_says_so(
    mode: Mode, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with connected(mode, tmp_path, fast_command()) as client:
        caught: list[MCPError] = []
        gates: list[int] = []

        async def wait() -> None:
            with pytest.raises(MCPError) as raised:
                await client.call_tool("wait", {"fifo": str(fifo)})
            caught.append(raised.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            gates.append(await begun(fifo))
            await kill(client)
        os.close(*gates)
        (error,) = caught
        assert error.code == -32603
        data: dict[str, Any] = error.data
        told = {key: data[key] for key in ("reason", "exit_code", "signal")}
        assert told == {"reason": "child_exited", "exit_code": None, "signal": "SIGKILL"}
        assert (await text(client, "echo", text="and on it goes")) == "and on it goes"


@through_mcpkeep
@both_eras
async def test_a_read_only_call_that_the_killed_server_had_taken_is_made_again(
    mode: Mode, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with connected(mode, tmp_path, fast_command()) as client:
        await client.list_tools()
        said: list[str] = []

        async def wait() -> None:
            said.append(await text(client, "wait_read_only", fifo=str(fifo), text="the second server"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            first = await begun(fifo)
            await kill(client)  # so that whoever reads from now on is the second server
            second = await begun(fifo)  # before the first is closed, or that one may read its end
            os.close(first)
            os.close(second)
        assert said == ["the second server"]


@through_mcpkeep
async def test_a_closed_session_leaves_no_process(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    async with connected(
        "auto", tmp_path, fast_command("--liveness", str(alive), "--fork-session")
    ) as client:
        await text(client, "echo", text="up")
    with anyio.fail_after(LIMIT):
        await anyio.wait_readable(reader)
    assert os.read(reader, 1) == b""
    os.close(reader)
