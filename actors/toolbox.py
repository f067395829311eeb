"""Our own tools, by name. A tool is one entry here; the relay learns of it from the same table."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec
from msgspec import Raw

from mcpkeep.protocol.relay.tools import OwnTool, ToolCall, ToolResult

__all__ = ["Progress", "ToolHandler", "Toolbox", "named_action", "refusal"]

Progress: TypeAlias = Callable[[float, float | None, str], None]
"""Takes how far a call is, the total if known, and a text."""

ToolHandler: TypeAlias = Callable[[Raw, Progress], Awaitable[ToolResult]]
"""Answers one call from its arguments as they came."""


class Toolbox:
    """The table of our own tools, each with who answers it."""

    def __init__(self, *tools: tuple[OwnTool, ToolHandler], on_bug: Callable[[str, Exception], str]) -> None:
        """`on_bug` logs an unexpected error of the named tool, and says where it can be read."""
        self._handlers = {tool.name: handler for tool, handler in tools}
        self._on_bug = on_bug

    async def call(self, call: ToolCall, progress: Progress) -> ToolResult:
        """Answer one call of a tool in the table; an error of the handler becomes a refusal."""
        try:
            return await self._handlers[call.name](call.arguments, progress)
        except Exception as error:
            place = self._on_bug(call.name, error)
            return refusal(
                named_action(bytes(call.arguments)),
                "RuntimeError",
                f"mcpkeep failed at this call of {call.name!r}: {type(error).__name__}",
                f"This is a bug in mcpkeep; the details are in {place}.",
            )


class _Named(msgspec.Struct, frozen=True):
    action: str | None = None


def named_action(arguments: bytes) -> str | None:
    """The action that a call's arguments name, whether or not there is one of that name."""
    try:
        action = msgspec.json.decode(arguments, type=_Named).action
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return action[:100] if action is not None else None


def refusal(action: str | None, error_type: str, error: str, remediation: str, **more: object) -> ToolResult:
    """The answer of a tool that does not do what it was asked, in the shape all our tools share."""
    members = {
        "status": "error",
        "action": action,
        "error": error,
        "error_type": error_type,
        "remediation": remediation,
        **more,
    }
    return ToolResult(Raw(msgspec.json.encode(members)), is_error=True)
