"""The tool `mcpkeep`: what an agent may ask of the supervisor itself, whether or not the server is up."""

from typing import Annotated, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from mcpkeep.protocol.relay.tools import OwnTool
from mcpkeep.protocol.schema import flat_schema

__all__ = ["KEEP_TOOL", "KeepAction", "KeepArguments", "KeepOptions", "action_names"]

KeepAction = Literal["status", "restart", "logs"]


class KeepOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a call may say beside its action."""

    mode: Annotated[
        Literal["overlap", "hold"] | None,
        Meta(description="restart: start the new server beside the old one, or after it has ended."),
    ] = None
    lines: Annotated[
        int, Meta(ge=1, le=1000, description="logs: how many of the last lines of the server's stderr.")
    ] = 50


class KeepArguments(KeepOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of one call."""

    action: Annotated[KeepAction, Meta(description="What to do.")]


def action_names(arguments: type[KeepOptions]) -> list[str]:
    """The actions that a tool of these arguments has, sorted."""
    kind = next(field.type for field in msgspec.structs.fields(arguments) if field.name == "action")
    return sorted(get_args(get_args(kind)[0]) if get_origin(kind) is Annotated else get_args(kind))


KEEP_TOOL = OwnTool(
    name="mcpkeep",
    title="mcpkeep: the MCP server's supervisor",
    description=(
        "Look after the MCP server behind this connection; works while that server is down.\n"
        '- status: is it up, since when, how it last ended, what waits. {"action": "status"}\n'
        "- restart: start a new server process; the session goes on, calls wait instead of failing. "
        '{"action": "restart"}\n'
        '- logs: the last lines the server wrote to stderr. {"action": "logs", "lines": 100}'
    ),
    input_schema=flat_schema(KeepArguments),
    output_schema={
        "type": "object",
        "properties": {"status": {"type": "string"}, "action": {"type": "string"}},
        "required": ["status", "action"],
    },
    annotations={
        "readOnlyHint": False,
        "destructiveHint": False,
        "idempotentHint": True,
        "openWorldHint": False,
    },
)
