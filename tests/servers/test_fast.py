"""The fast server misbehaves as its README says: what other tests conclude from it stands on this."""

import json
import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import fast_command

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "1"},
}


class Running:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.number = 0

    def send(self, method: str, **params: object) -> int:
        assert self.process.stdin is not None
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        return self.number

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, method: str, **params: object) -> Any:
        self.send(method, **params)
        answer = json.loads(self.line())
        return answer.get("result", answer.get("error"))

    def call(self, name: str, **arguments: object) -> Any:
        return self.ask("tools/call", name=name, arguments=arguments)

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(10)


@contextmanager
def running(*flags: str) -> Generator[Running]:
    pipe = subprocess.PIPE
    with subprocess.Popen(fast_command(*flags), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def test_an_orderly_session_ends_with_its_stdin() -> None:
    with running() as server:
        assert server.ask("initialize", **INITIALIZE)["protocolVersion"] == "2025-11-25"
        assert server.call("echo", text="hello") == {"content": [{"type": "text", "text": "hello"}]}
        assert server.ask("nonsense") == {"code": -32601, "message": "method not found: nonsense"}
        assert server.end() == 0


def test_settings_are_read_at_each_start(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    seen: list[list[str]] = []
    for tools in (["echo"], ["echo", "another"]):
        settings.write_text(json.dumps({"tools": tools}))
        with running("--settings", str(settings)) as server:
            seen.append([tool["name"] for tool in server.ask("tools/list")["tools"]])
    assert seen == [["echo"], ["echo", "another"]]


@pytest.mark.parametrize(
    ("how", "ending"), [({"how": "kill"}, -signal.SIGKILL), ({"how": "exit", "code": 3}, 3)]
)
def test_it_crashes_on_demand_without_an_answer(how: dict[str, object], ending: int) -> None:
    with running() as server:
        server.send("tools/call", name="crash", arguments=how)
        assert server.line() == b""
        assert server.process.wait(10) == ending


def test_it_dies_in_the_middle_of_a_line() -> None:
    with running() as server:
        server.send("tools/call", name="crash", arguments={"how": "mid-line"})
        line = server.line()
        assert line.startswith(b'{"jsonrpc"') and not line.endswith(b"\n")
        assert server.process.wait(10) == -signal.SIGKILL


def test_it_dies_at_start_with_a_word_on_stderr() -> None:
    with running("--die-at-start", "7") as server:
        assert server.process.wait(10) == 7
        assert server.process.stderr is not None
        assert server.process.stderr.read() == b"fast.py: dying at start with code 7\n"


def test_it_lists_in_pages_whose_cursors_are_its_own() -> None:
    with running("--page", "2", "--tools", "a,b,c") as server:
        first = server.ask("tools/list")
        second = server.ask("tools/list", cursor=first["nextCursor"])
        assert [tool["name"] for tool in first["tools"] + second["tools"]] == ["a", "b", "c"]
        assert "nextCursor" not in second
        assert server.ask("tools/list", cursor="1:2")["code"] == -32602


def test_a_waiting_call_is_answered_when_the_fifo_closes_and_others_meanwhile(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with running() as server:
        waiting = server.send("tools/call", name="wait", arguments={"fifo": str(fifo)})
        gate = os.open(fifo, os.O_WRONLY)
        assert server.call("echo", text="meanwhile")["content"][0]["text"] == "meanwhile"
        os.close(gate)
        assert json.loads(server.line())["id"] == waiting


@pytest.mark.parametrize("fork", ["--fork", "--fork-session"])
def test_its_grandchild_holds_the_liveness_fifo_until_it_is_killed(tmp_path: Path, fork: str) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    with running("--liveness", str(alive), fork) as server:
        (grandchild,) = server.call("whoami")["structuredContent"]["grandchildren"]
        assert server.end() == 0
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.kill(grandchild, signal.SIGKILL)
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_client_s_answer_becomes_the_call_s() -> None:
    with running() as server:
        server.ask("initialize", **INITIALIZE)
        server.send("tools/call", name="ask", arguments={"what": "roots"})
        question = json.loads(server.line())
        assert (question["id"], question["method"]) == (0, "roots/list")
        assert server.process.stdin is not None
        server.process.stdin.write(b'{"jsonrpc":"2.0","id":0,"result":{"roots":[]}}\n')
        assert json.loads(server.line())["result"]["content"][0]["text"] == 'roots: {"roots": []}'
