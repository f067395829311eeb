"""A small prAxIs server to be tried: a release of the standard library alone, and what it can do wrong."""

import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.lowlevel

from mcpkeep.protocol.upgrade.release import Release
from mcpkeep.supervisor.sweep import carriers
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["SESSION", "Installation", "make_installation", "mark"]

SESSION = "0f0e0d0c-1111-4222-8333-444455556666"

SERVER = """
import json, os, sys, time
from datetime import datetime
from pathlib import Path
import mcp_server.variant as variant

BASE = Path.cwd() / ".praxis-os"
INDEX = BASE / ".cache" / "vector_index"
FLAG = BASE / "standards" / ".rebuild_index"
TABLE = getattr(variant, "TABLE", "standards.lance")
TOOLS = getattr(variant, "TOOLS", ["pos_workflow", "search_standards", "get_server_info"])

def say(text, end="\\n"):
    sys.stderr.write(text + end)
    sys.stderr.flush()

def build():
    say("building the index")
    getattr(variant, "while_building", lambda: None)()
    INDEX.mkdir(parents=True, exist_ok=True)
    table = INDEX / TABLE
    table.mkdir(exist_ok=True)
    mtimes = {}
    for path in (BASE / "standards").rglob("*.md"):
        mtimes[str(path.relative_to(BASE))] = path.stat().st_mtime
    (table / f"part-{time.time_ns()}").write_text("vectors")
    (INDEX / "metadata.json").write_text(
        json.dumps({"build_time": datetime.now().isoformat(), "files_mtimes": mtimes})
    )

def ensure_index():
    if not INDEX.exists() and getattr(variant, "BUILDS", True):
        build()
    if FLAG.exists() and getattr(variant, "HEEDS_FLAG", True):
        build()
        FLAG.unlink()

def search():
    if getattr(variant, "SEARCH", None):
        return variant.SEARCH
    found = "vector" if (INDEX / TABLE).is_dir() else "grep_fallback"
    return {"results": [], "retrieval_method": found}

def call(name, arguments):
    getattr(variant, "on_call", lambda name: None)(name)
    if name == "search_standards":
        return search()
    if name == "pos_workflow":
        return {"status": "success", "workflows": [], "count": 0}
    if name == "get_server_info":
        key = getattr(variant, "PLACE_KEY", "praxis_os_path")
        return {"project": {key: getattr(variant, "PLACE", str(BASE))}}
    if name == "where":
        misled = [name for name, value in os.environ.items() if value == "/elsewhere"]
        env = dict(os.environ)
        return {"cwd": os.getcwd(), "file": __file__, "env": env, "argv": sys.argv[1:], "misled": misled}
    return {"status": "success"}

def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()

def answer(message):
    method, params = message["method"], message.get("params") or {}
    if method == "initialize":
        return {
            "protocolVersion": getattr(variant, "PROTOCOL", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "small", "version": getattr(variant, "VERSION", "1")},
        }
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    result = call(params["name"], params["arguments"])
    return {"content": [{"type": "text", "text": json.dumps(result)}], "structuredContent": result}

def main():
    say("starting")
    getattr(variant, "at_start", lambda: None)()
    for folder in (BASE / "standards", BASE / "workflows", INDEX.parent):
        if not folder.is_dir():
            sys.exit(f"{folder} is missing")
    ensure_index()
    (BASE / ".mcp_server_state.json").write_text(json.dumps({"pid": os.getpid()}))
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            special = getattr(variant, "special", lambda message, send: False)
            if not special(message, send):
                send({"id": message["id"], "result": answer(message)})
    (BASE / ".mcp_server_state.json").unlink()

if __name__ == "__main__":
    main()
"""


class Installation:
    """A workspace with a live installation, one release, and a staging workspace filled for SESSION."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.release = Release(
            schema=1,
            release_id="2026-01-31-a1b2c3d",
            version="2",
            commit="a" * 40,
            made_at=datetime(2026, 1, 31, tzinfo=UTC),
            venv="v",
            requirements_sha256="0" * 64,
            server_files={},
            command=("-m", "mcp_server", "--transport", "stdio"),
        )

    @property
    def folder(self) -> Path:
        """The release's own."""
        return self.layout.releases / self.release.release_id

    @property
    def staged(self) -> Path:
        return self.layout.staged(SESSION)

    def vary(self, code: str) -> None:
        """Set what the server does otherwise: names of its module `variant`."""
        (self.folder / "mcp_server" / "variant.py").write_text(code)

    def state_file(self, base: Path) -> Path:
        return base / ".mcp_server_state.json"

    def index(self, base: Path, *, table: str = "standards.lance", **metadata: object) -> Path:
        """Make a finished index of what the installation at `base` holds."""
        index = base / ".cache" / "vector_index"
        (index / table).mkdir(parents=True)
        (index / table / "part-1").write_text("vectors")
        known: Mapping[str, float] = {
            str(path.relative_to(base)): path.stat().st_mtime for path in (base / "standards").rglob("*.md")
        }
        told = {"build_time": "2026-01-01T00:00:00", "files_mtimes": known, **metadata}
        (index / "metadata.json").write_text(json.dumps(told))
        return index


def make_installation(folder: Path) -> Installation:
    """Make it all, the server without a fault."""
    workspace = folder / "a workspace"
    layout = Layout(workspace, workspace / ".praxis-os")
    made = Installation(layout)
    for base in (layout.base, made.staged):
        for path in ("standards/universal/naming.md", "standards/development/ours.md"):
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).write_text(f"# {path}\n")
            os.utime(base / path, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
        (base / "workflows").mkdir()
    (layout.base / ".cache").mkdir()
    code = made.folder / "mcp_server"
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("")
    (code / "__main__.py").write_text(SERVER)
    made.vary("")
    venv = layout.venvs / "v" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(sys.executable)
    (made.folder / "venv").symlink_to(Path("..", "..", "venvs", "v"))
    return made


def mark() -> Iterator[str]:
    """The mark of all that a test starts; nothing that carries it may be left."""
    mark = uuid.uuid4().hex
    yield mark
    assert anyio.run(_left, mark) == []


async def _left(mark: str) -> list[int]:
    with anyio.move_on_after(5):
        while carriers(mark):
            await anyio.lowlevel.checkpoint()
    return carriers(mark)
