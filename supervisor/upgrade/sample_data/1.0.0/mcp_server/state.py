"""The state file, from which other programs learn where the server is."""

import json
import os
from datetime import datetime
from pathlib import Path

FIRST_PORT, LAST_PORT = 4242, 5242


def write_state(base: Path, transport: str) -> int | None:
    """Take a port, and say so in the state file; the port, None where only stdio is served."""
    path = base / ".mcp_server_state.json"
    port = None if transport == "stdio" else _free_port(path)
    state = {
        "version": "1.0.0",
        "transport": transport,
        "port": port,
        "host": "127.0.0.1",
        "path": "/mcp",
        "url": None if port is None else f"http://127.0.0.1:{port}/mcp",
        "pid": os.getpid(),
        "started_at": datetime.now().isoformat(),
        "project": {"name": base.parent.name, "root": str(base.parent)},
    }
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(state, file, indent=2)
    os.replace(temporary, path)
    return port


def remove_state(base: Path) -> None:
    """Remove the state file, whoever wrote it."""
    (base / ".mcp_server_state.json").unlink(missing_ok=True)


def _free_port(path: Path) -> int:
    """The port after that of a server which is still running; the sample listens on none."""
    try:
        other = json.loads(path.read_text(encoding="utf-8"))
        os.kill(other["pid"], 0)
        return min(LAST_PORT, max(FIRST_PORT, (other["port"] or 0) + 1))
    except (OSError, ValueError, KeyError):
        return FIRST_PORT
