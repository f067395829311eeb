"""What a server showed when it was tried: its tools against the old one's, smoke tests, its index."""

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = ["Proof", "SmokeResult", "SmokeTest", "ToolDiff", "compare_tools"]


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
