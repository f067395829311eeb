"""What a server showed when it was tried: its tools against the old one's, smoke tests, its index."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

__all__ = ["Proof", "SmokeResult", "SmokeTest", "ToolDiff", "compare_tools", "tool_digests"]

_DIGESTED = ("description", "inputSchema", "outputSchema", "annotations")


class SmokeTest(msgspec.Struct, frozen=True):
    """One declared call, and what a value in its structured answer must be."""

    name: str
    tool: str
    arguments: Mapping[str, object]
    path: str
    """JSON path, such as `$.retrieval_method` or `$.results[0].file`; empty where any answer will do that
    is no error.
    """
    value: object


class SmokeResult(msgspec.Struct, frozen=True):
    """One smoke test that was made, or why not."""

    name: str
    tool: str
    status: Literal["passed", "failed", "skipped"]
    detail: str = ""
    seconds: float = 0.0
    remote: bool = False
    """Whether what failed was a network: it says nothing about the server, so it is reported only."""


class ToolDiff(msgspec.Struct, frozen=True):
    """The tool lists of two servers; `changed` are those of the same name that are described otherwise."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True):
    """What the server did when it was tried."""

    server_name: str
    server_version: str
    code_path: str
    """Where it loaded `mcp_server` from, as asked of its interpreter."""
    tools: Mapping[str, str]
    """Name to SHA-256 of its description and schemas."""
    smoke: tuple[SmokeResult, ...]
    index: Literal["none", "carried", "updated", "built"]
    """What stands in staging: nothing, the live index as it was, the live one brought up to the new content,
    or one that the candidate built.
    """
    seconds_to_ready: float
    stderr_tail: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """The flags of the user's own command that this version does not know, and was started without."""


def tool_digests(tools: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Name to SHA-256 of what a client is told of the tool: its description, schemas and annotations.

    The order of members does not count; tools without a name are left out.
    """
    digests: dict[str, str] = {}
    for tool in tools:
        name = tool.get("name")
        if isinstance(name, str):
            told = {member: tool[member] for member in _DIGESTED if tool.get(member) is not None}
            digests[name] = hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()
    return digests


def compare_tools(old: Mapping[str, str], new: Mapping[str, str]) -> ToolDiff:
    """Compare two tool lists, name to digest."""
    return ToolDiff(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )
