"""The official TypeScript client and server-everything cannot tell mcpkeep from a direct connection.

Needs node and `npm ci` in tests/node. MCPKEEP_TEST_DIRECT=1 leaves mcpkeep out: so the script is checked.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.line import environment, mcpkeep_command

NODE = Path(__file__).parents[1] / "node"
EVERYTHING = NODE / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
SERVER = ["node", str(EVERYTHING)]
DIRECT = os.environ.get("MCPKEEP_TEST_DIRECT") == "1"
LIMIT = 120
"""Seconds. One run takes six; the research of the task alone takes four."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(not EVERYTHING.exists(), reason="the npm packages are missing: npm ci in tests/node"),
]

Transcript = list[object]


def start(command: Sequence[str], *flags: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["node", str(NODE / "transcript.mjs"), *flags, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment() | {"XDG_STATE_HOME": str(cwd)},
    )


def finish(process: "subprocess.Popen[str]") -> Transcript:
    out, _ = process.communicate("killed\n", timeout=LIMIT)
    assert process.returncode == 0
    return [json.loads(line) for line in out.split("\n") if line]


def kill_server(client: "subprocess.Popen[str]") -> None:
    """SIGKILL server-everything, wherever it is below the client."""
    tree = psutil.Process(client.pid).children(recursive=True)
    (server,) = [process for process in tree if process.cmdline() == SERVER]
    server.send_signal(signal.SIGKILL)


def test_every_feature_works_as_directly_and_again_after_the_server_was_killed(tmp_path: Path) -> None:
    direct = start(SERVER, cwd=tmp_path)
    command = SERVER if DIRECT else mcpkeep_command(SERVER)
    client = start(command, "--twice", cwd=tmp_path)
    assert client.stdout is not None
    before: Transcript = []
    while (said := json.loads(client.stdout.readline())) != {"now": "kill"}:
        before.append(said)
    if not DIRECT:
        kill_server(client)
    after = finish(client)
    expected = finish(direct)
    assert before == expected
    assert after == expected[2:]  # without the server's version and instructions, told once
