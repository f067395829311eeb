"""What a start imports of upgrades: nothing where there is no prAxIs OS, and next to nothing where one is."""

import json
import subprocess
import sys
from pathlib import Path

from tests import rpc
from tests.benchmarks.line import environment
from tests.servers import fast_command

PENDING = """
import json, sys
from mcpkeep.supervisor.options import gather_options
before = set(sys.modules)
from mcpkeep.supervisor.upgrade.pending import make_ready
assert make_ready(sys.argv[1], sys.argv[1] + "/.praxis-os", sys.argv[2] or None) is None
print(json.dumps(sorted(set(sys.modules) - before)))
"""
SMALL = [f"mcpkeep.supervisor.upgrade{name}" for name in ("", ".live_code", ".pending")]


def test_without_praxis_os_no_part_of_upgrades_is_imported(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    command = rpc.mcpkeep(fast_command())
    with rpc.Client([command[0], "-X", "importtime", *command[1:]], tmp_path) as client:
        client.initialize()
        assert "restart" in str(client.answer(client.request("tools/list")))
        client.keep("status")
        client.close_stdin()
        client.wait_until_ended()
    imported = [line.split("|")[2].strip() for line in client.log().splitlines() if "import time:" in line]
    assert "mcpkeep.actors.keep_tool" in imported  # of the tree
    ours = [name for name in imported if name.startswith("mcpkeep.")]
    assert [name for name in ours if "upgrade" in name or name.endswith(".control")] == []


def pending(workspace: Path, release: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PENDING, str(workspace), release],
        env=environment(),
        capture_output=True,
        check=True,
    )
    names: list[str] = json.loads(done.stdout)
    return names


def test_with_nothing_pending_two_small_modules_come_before_the_child(tmp_path: Path) -> None:
    base = tmp_path / ".praxis-os"
    (base / "mcp_server").mkdir(parents=True)
    assert pending(tmp_path, "") == SMALL
    (base / "mcp_server" / "__main__.py").write_text("")
    (base / ".mcpkeep" / "releases" / "r").mkdir(parents=True)
    record = {
        "server_files": {"__main__.py": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    }
    (base / ".mcpkeep" / "releases" / "r" / "release.json").write_text(json.dumps(record))
    (base / ".mcpkeep" / "current").symlink_to("releases/r")
    first = pending(tmp_path, "r")  # its content is read, by what Python itself has
    assert [name for name in first if name.startswith(("mcpkeep", "msgspec", "anyio"))] == sorted(
        [*SMALL, "mcpkeep.supervisor.upgrade.code_files"]
    )
