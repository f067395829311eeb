"""Our own tools as the client sees them: what stands in `tools/list`, and what a call answers."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from mcpkeep.protocol.relay.jsonrpc import RequestId

__all__ = ["OwnTool", "ToolCall", "ToolCalled", "ToolResult", "encode_tool", "encode_tool_result"]


class OwnTool(msgspec.Struct, frozen=True):
    """A tool that mcpkeep serves itself, whether or not a child runs."""

    name: str
    title: str
    description: str
    input_schema: Mapping[str, object]
    output_schema: Mapping[str, object]
    annotations: Mapping[str, object]
    hides: frozenset[str] = frozenset()
    """Further tools of the child that this one stands for."""


class ToolCall(msgspec.Struct, frozen=True):
    """A client's call of one of our own tools."""

    id: RequestId
    name: str
    arguments: Raw
    """The arguments as they came, unchecked; empty where there were none."""
    progress_token: RequestId | None = None


class ToolCalled(msgspec.Struct, frozen=True, tag="relay.tool_called"):
    """The relay asks for the answer to a call of one of our own tools."""

    call: ToolCall


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool answers; a refusal is a result with `is_error`, never a JSON-RPC error."""

    structured: Raw
    """One JSON object; it stands in the answer both as structured content and as text."""
    is_error: bool = False


def encode_tool(tool: OwnTool) -> Raw:
    """The tool's entry in `tools/list`."""
    return Raw(
        msgspec.json.encode(
            {
                "name": tool.name,
                "title": tool.title,
                "description": tool.description,
                "inputSchema": tool.input_schema,
                "outputSchema": tool.output_schema,
                "annotations": tool.annotations,
            }
        )
    )


def encode_tool_result(result: ToolResult, *, modern: bool) -> Raw:
    """The `result` member of the answer; modern results name their type."""
    members: dict[str, object] = {
        "content": [{"type": "text", "text": bytes(result.structured).decode()}],
        "structuredContent": result.structured,
        "isError": result.is_error,
    }
    if modern:
        members["resultType"] = "complete"
    return Raw(msgspec.json.encode(members))
