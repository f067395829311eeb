"""Serves MCP on stdio until stdin ends."""

import json
import os
import signal
import sys
import time

from mcp_server.index import Index
from mcp_server.settings import Settings, find_base
from mcp_server.state import remove_state, write_state
from mcp_server.tools import Tools

PROTOCOLS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
Json = dict[str, object]


def log(text: str, level: str = "INFO") -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    os.write(2, f"{stamp} - mcp_server - {level} - {text}\n".encode())


def send(message: Json) -> None:
    data = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def run(transport: str) -> None:
    """Start, serve, and leave as the real one does: silently on EOF, and never by SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings(find_base())
    log(f"project {settings.project}, installation {settings.base.name}")
    for fault in (faults := settings.faults()):
        log(fault, "ERROR")
    if faults:
        sys.exit(1)
    for path in sorted([*settings.standards.rglob("*.md"), *settings.workflows.rglob("*.md")]):
        log(f"{path.relative_to(settings.project)}: {path.stat().st_size} bytes")
    index = Index(settings)
    log(f"index: {index.open()}")
    tools = Tools(settings, index, transport)
    for name in tools.names():
        log(f"registered tool {name}")
    port = write_state(settings.base, transport)
    log("serving stdio" if port is None else f"serving stdio and http://127.0.0.1:{port}/mcp")
    try:
        serve(tools)
    finally:
        remove_state(settings.base)


def serve(tools: Tools) -> None:
    """Answer what comes, one after the other, until stdin ends."""
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in filter(None, lines):
            message = json.loads(line)
            if "method" not in message or "id" not in message:
                continue
            result = answer(tools, message["method"], message.get("params") or {})
            if result is None:
                error = {"code": -32601, "message": f"Method not found: {message['method']}"}
                send({"id": message["id"], "error": error})
            else:
                send({"id": message["id"], "result": result})


def answer(tools: Tools, method: str, params: Json) -> Json | None:
    """The result of one request; None where there is no such method."""
    match method:
        case "initialize":
            asked = params.get("protocolVersion")
            return {
                "protocolVersion": asked if asked in PROTOCOLS else PROTOCOLS[-1],
                "capabilities": {"logging": {}, "tools": {"listChanged": False}},
                "serverInfo": {"name": "praxis-os-rag", "version": "1.19.0"},
            }
        case "tools/list":
            return {"tools": tools.listing()}
        case "tools/call":
            called = tools.call(str(params.get("name")), params.get("arguments") or {})
            if called.get("structuredContent", {}).get("retrieval_method") == "grep_fallback":
                text = "the index cannot be used, searched the files"
                note = {"level": "warning", "logger": "praxis-os-rag", "data": text}
                send({"method": "notifications/message", "params": note})
            return called
        case "ping" | "logging/setLevel":
            return {}
        case _:
            return None
