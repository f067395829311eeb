"""Asks the user behind the client to decide conflicts, where the client can ask (MCP elicitation)."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Raw

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.upgrade.plan import Choice

__all__ = ["Client", "Elicitation"]

ASK_LIMIT = 600.0
"""Seconds for a person to decide."""

MOST = 20
"""Conflicts in one form; more are better read in a list."""

_DIFF_LINES = 12


class Client(Protocol):
    """The client, as it can be asked."""

    def client_can(self, capability: str) -> bool: ...

    async def ask_client(self, method: str, params: Mapping[str, object], *, within: float) -> Raw:
        """The result of the client's answer. Raises McpkeepError."""
        ...


class _Answer(msgspec.Struct, frozen=True):
    action: str
    content: Mapping[str, object] | None = None


class Elicitation:
    """The `AskUser` of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def decide(self, conflicts: Mapping[str, str]) -> Mapping[str, Choice] | None:
        """A choice for each path; None where the client cannot ask, or the user will not say."""
        if not self._client.client_can("elicitation") or len(conflicts) > MOST:
            return None
        paths = sorted(conflicts)
        try:
            raw = await self._client.ask_client(
                "elicitation/create", _form(paths, conflicts), within=ASK_LIMIT
            )
            answer = msgspec.json.decode(raw, type=_Answer)
            if answer.action != "accept" or answer.content is None:
                return None
            return {
                path: Choice(answer.content[_field(n)])
                for n, path in enumerate(paths)
                if _field(n) in answer.content
            }
        except (McpkeepError, msgspec.DecodeError, ValueError):
            return None


def _form(paths: Sequence[str], conflicts: Mapping[str, str]) -> Mapping[str, object]:
    shown = "\n\n".join("\n".join((path, *conflicts[path].splitlines()[:_DIFF_LINES])) for path in paths)
    return {
        "message": (
            f"{len(paths)} files were changed by you and by the new version in the same place. "
            f"Keep yours, or take the new one? The other side is kept aside.\n\n{shown}"
        ),
        "requestedSchema": {
            "type": "object",
            "properties": {
                _field(n): {
                    "type": "string",
                    "title": path,
                    "enum": ["keep", "take"],
                    "enumNames": ["keep mine", "take the new one"],
                    "default": "keep",
                }
                for n, path in enumerate(paths)
            },
            "required": [_field(n) for n in range(len(paths))],
        },
    }


def _field(number: int) -> str:
    return f"file_{number + 1}"
