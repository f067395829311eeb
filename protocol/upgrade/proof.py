"""What a server showed when it was tried: its tools against the old one's, smoke tests, its index."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

__all__ = ["Proof", "SmokeResult", "SmokeTest", "ToolDiff", "compare_tools", "tool_digests"]


class SmokeTest(msgspec.Struct, frozen=True):
    """One declared call, and what a value in its structured answer must be."""

    name: str
    tool: str
    arguments: Mapping[str, object]
    path: str
    """JSON path, such as `$.retrieval_method` or `$.results[0].file`."""
    value: object


class SmokeResult(msgspec.Struct, frozen=True):
    """One smoke test that was made, or why not."""

    name: str
    tool: str
    status: Literal["passed", "failed", "skipped"]
    detail: str = ""
    seconds: float = 0.0


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
    index: Literal["none", "carried", "built"]
    seconds_to_ready: float
    stderr_tail: tuple[str, ...] = ()


def compare_tools(old: Mapping[str, str], new: Mapping[str, str]) -> ToolDiff:
    """Compare two tool lists, name to digest."""
    return ToolDiff(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


_DESCRIBED = ("description", "inputSchema", "outputSchema", "annotations")


def tool_digests(tools: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Each tool's name to the SHA-256 of what its entry in `tools/list` says of it, as canonical JSON."""
    digests: dict[str, str] = {}
    for tool in tools:
        described = {key: tool.get(key) for key in _DESCRIBED}
        encoded = msgspec.json.encode(described, order="deterministic")
        digests[str(tool.get("name"))] = hashlib.sha256(encoded).hexdigest()
    return digests
