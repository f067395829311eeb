"""What the fast server lists and announces, its flags, and the bad frames it can send."""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False  # importing typing would cost a third of the start
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
ENVELOPE = "io.modelcontextprotocol/"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
WITH_VALUE = {
    *("--settings", "--tools", "--version-suffix", "--protocol", "--page", "--record", "--liveness"),
    *("--flood-stdout", "--flood-stderr", "--die-at-start", "--bad"),
}
WITHOUT_VALUE = {
    *("--legacy-only", "--no-capabilities", "--ignore-term", "--ignore-eof", "--fork", "--fork-session"),
    *("--noise", "--close-stdout", "--die-mid-line", "--hang-initialize"),
}
LOG = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%s}}'
BAD_FRAMES = {
    "utf8": LOG % b'"\xff"',
    "bom": b"\xef\xbb\xbf" + LOG % b'"after a mark"',
    "batch": b"[" + LOG % b'"in a batch"' + b"]",
    "deep": LOG % (b"[" * 100_000 + b"]" * 100_000),
    "array": b"[]",
    "nojsonrpc": b'{"method":"notifications/message","params":{"level":"info","data":"unversioned"}}',
}
BAD_DATA = {
    "nan": b'{"content":[],"structuredContent":{"n":NaN}}',
    "surrogate": b'{"content":[],"note":"\\ud800"}',
}


def parse_flags(words: list[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word in WITH_VALUE:
            flags[word] = next(rest)
        elif word in WITHOUT_VALUE:
            flags[word] = ""
        else:
            sys.stderr.write(f"fast.py: unknown flag {word!r}; README.md lists them\n")
            sys.exit(2)
    return flags


def read_settings(words: list[str]) -> tuple[dict[str, str], Json]:
    flags = parse_flags(words)
    settings: Json = {}
    if "--settings" in flags:
        with open(flags["--settings"], "rb") as file:
            settings = json.load(file)
        flags = {**flags, **parse_flags(settings.get("flags", []))}
    if "--tools" in flags:
        settings["tools"] = [name for name in flags["--tools"].split(",") if name]
    return flags, settings


def tool(name: str, description: str, *arguments: str, **annotations: bool) -> Json:
    anything: Json = {}
    schema: Json = {"type": "object", "properties": dict.fromkeys(arguments, anything)}
    listed: Json = {"name": name, "description": description, "inputSchema": schema}
    if annotations:
        listed["annotations"] = annotations
    return listed


TOOLS = [
    tool("echo", "Answer with the text", "text"),
    tool("blob", "Answer with `size` bytes", "size"),
    tool("whoami", "Tell the pid, and what clients told this process"),
    tool("wait", "Answer when the FIFO has been opened and closed", "fifo", "text"),
    tool("wait_read_only", "As wait, changing nothing", "fifo", "text", readOnlyHint=True),
    tool("wait_idempotent", "As wait, harmless when repeated", "fifo", "text", idempotentHint=True),
    tool("block", "As wait, serving nobody meanwhile", "fifo"),
    tool("progress", "Report progress, then answer", "steps", "fifo"),
    tool("crash", "End this process", "how", "code"),
    tool("ask", "Ask the client for something", "what"),
    tool("log", "Send a log notification", "level", "text"),
    tool("changed", "Tell that a list or a resource changed", "what", "uri"),
    tool("flood", "Write much", "stream", "count", "size"),
]
RESOURCES = [
    {"uri": f"test://{name}", "name": name, "mimeType": "text/plain"} for name in ("one", "two", "three")
]
TEMPLATES = [{"uriTemplate": "test://{name}", "name": "any"}]
PROMPTS = [{"name": name, "arguments": [{"name": "topic"}]} for name in ("greet", "review", "plan")]
CAPABILITIES = {
    "tools": {"listChanged": False},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "logging": {},
    "completions": {},
}
