"""An MCP server written with the official SDK: both eras, and every feature a client can use.

Arguments: names of further tools, which echo (so that a next start can list others).
"""

import os
import sys
import warnings
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageResult,
    EmptyResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    ToolAnnotations,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel

warnings.simplefilter(
    "ignore"
)  # logging, sampling and roots are deprecated in the modern era, and served in both

server: MCPServer[Any] = MCPServer("sdk", version="1.0", instructions="for tests", log_level="ERROR")
subscribed: list[str] = []
level = ["debug"]


class Colour(BaseModel):
    colour: str


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def whoami() -> dict[str, Any]:
    """Tell the pid, and what the client asked of this process."""
    return {"pid": os.getpid(), "subscribed": subscribed, "level": level[0]}


@server.tool()
async def steps(count: int, ctx: Context[Any, Any]) -> str:
    """Report progress and log at each step."""
    for step in range(1, count + 1):
        await ctx.report_progress(step, count, f"step {step}")
        await ctx.info(f"step {step}")  # pyright: ignore[reportDeprecated]
    return f"{count} steps"


@server.tool()
async def wait(fifo: str) -> str:
    """Answer when the FIFO has been opened for writing and closed."""

    def until_closed() -> None:
        with open(fifo, "rb") as file:
            file.read()

    await anyio.to_thread.run_sync(until_closed, abandon_on_cancel=True)
    return "waited"


def ask_colour() -> Elicit[Colour]:
    return Elicit("which colour?", Colour)


@server.tool()
def colour(answer: Annotated[Colour, Resolve(ask_colour)]) -> str:
    """Elicit a colour."""
    return f"the user likes {answer.colour}"


def ask_model() -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(text="what now?"))], max_tokens=10)


@server.tool()
def sample(answer: Annotated[CreateMessageResult, Resolve(ask_model)]) -> str:
    """Ask the client's model."""
    said = answer.content.text if isinstance(answer.content, TextContent) else "no text"
    return f"{answer.model} said {said}"


def ask_roots() -> ListRoots:
    return ListRoots()


@server.tool()
def roots(answer: Annotated[ListRootsResult, Resolve(ask_roots)]) -> str:
    """List the client's roots."""
    return " ".join(str(root.uri) for root in answer.roots)


@server.tool()
async def touch(uri: str, ctx: Context[Any, Any]) -> str:
    """Tell whoever subscribed that the resource was updated."""
    await ctx.notify_resource_updated(uri)
    if uri in subscribed:
        await ctx.session.send_resource_updated(uri)
    return f"touched {uri}"


@server.tool()
async def grow(name: str, ctx: Context[Any, Any]) -> str:
    """Add a tool, and tell so."""
    add_echo(name)
    await ctx.notify_tools_changed()
    if ctx.protocol_version != "2026-07-28":
        await ctx.session.send_tool_list_changed()
    return f"grew {name}"


@server.resource("note://one", mime_type="text/plain")
def note_one() -> str:
    return "the first note"


@server.resource("note://by-name/{name}", mime_type="text/plain")
def note(name: str) -> str:
    return f"a note by {name}"


@server.prompt()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}"


@server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
async def complete(
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion:
    names = [name for name in ("alice", "albert", "bob") if name.startswith(argument.value)]
    return Completion(values=names, total=len(names), has_more=False)


async def subscribe(_: object, params: SubscribeRequestParams) -> EmptyResult:
    subscribed.append(params.uri)
    return EmptyResult()


async def unsubscribe(_: object, params: UnsubscribeRequestParams) -> EmptyResult:
    subscribed.remove(params.uri)
    return EmptyResult()


async def set_level(_: object, params: SetLevelRequestParams) -> EmptyResult:
    level[0] = params.level
    return EmptyResult()


def add_echo(name: str) -> None:
    def echo(text: str = "") -> str:
        return f"{name}: {text}"

    server.add_tool(echo, name=name)


def main() -> None:
    # The legacy era's subscriptions and log level have no decorator on MCPServer.
    low = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    for name in sys.argv[1:]:
        add_echo(name)
    server.run()


if __name__ == "__main__":
    main()
