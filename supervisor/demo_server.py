"""The MCP server of `mcpkeep demo`: two tools, 30 ms each, and no idea that anybody keeps it up.

Run as a file of its own, standard library only.
"""

import json
import os
import select
import sys
import time
from typing import Any

__all__ = ["main"]

WORK = 0.03
"""Seconds that a call takes, so that a kill finds some in flight."""

PROTOCOL = "2025-11-25"


def tool(name: str, description: str, *, read_only: bool) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"number": {"type": "integer"}}}
    hints = {"readOnlyHint": read_only}
    return {"name": name, "description": description, "inputSchema": schema, "annotations": hints}


TOOLS = [
    tool("look", "Look something up", read_only=True),
    tool("change", "Change something", read_only=False),
]


def answer_at_once(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The result of everything but a tool call; None where there is no such method."""
    match method:
        case "initialize":
            return {
                "protocolVersion": params.get("protocolVersion", PROTOCOL),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "mcpkeep demo", "version": "1"},
            }
        case "tools/list":
            return {"tools": TOOLS}
        case "ping":
            return {}
        case _:
            return None


def send(message: dict[str, Any]) -> None:
    data = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def take(line: bytes, due: list[tuple[float, Any]]) -> None:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        return
    if message["method"] == "tools/call":
        due.append((time.monotonic() + WORK, message["id"]))
        return
    result = answer_at_once(message["method"], message.get("params") or {})
    if result is None:
        send({"id": message["id"], "error": {"code": -32601, "message": "method not found"}})
    else:
        send({"id": message["id"], "result": result})


def main() -> None:
    """Serve until stdin ends."""
    due: list[tuple[float, Any]] = []
    rest = b""
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        readable, _, _ = select.select([0], [], [], wait)
        if readable:
            data = os.read(0, 65536)
            if not data:
                sys.exit()
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                take(line, due)
        while due and due[0][0] <= time.monotonic():
            _, id_ = due.pop(0)
            said = {"pid": os.getpid()}
            content = [{"type": "text", "text": json.dumps(said)}]
            send({"id": id_, "result": {"content": content, "structuredContent": said}})


if __name__ == "__main__":
    main()
