"""A stand-in for mcpkeep that restarts its child: right by default, wrong on demand, to check the checks.

`naive_relay.py [--lose | --double | --orphan | --leak] -- COMMAND...`. SIGUSR2 restarts with a gap.
With `--lose` and `--double` it does so to the first answer after each restart.
"""

import json
import os
import select
import signal
import subprocess
import sys
from typing import Any


class Relay:
    def __init__(self, fault: str, command: list[str]) -> None:
        self.fault = fault
        self.command = command
        self.initialize = b""
        self.in_flight: dict[Any, bytes] = {}
        self.leaked: list[bytes] = []
        self.restarted = False
        self.out = self.back = b""
        self.child = self.spawn()
        signal.signal(signal.SIGUSR2, self.restart)

    def spawn(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def restart(self, _number: int, _frame: object) -> None:
        self.child.kill()

    def respawn(self) -> None:
        if self.fault == "--orphan":
            keep = [*self.command, "--ignore-eof"]
            subprocess.Popen(keep, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if self.fault == "--leak":
            self.leaked.append(b"x" * 200_000)
            os.dup(1)
        self.child.wait()
        lost, self.in_flight = self.in_flight, {}
        self.back = b""
        self.child = self.spawn()
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(self.initialize)
        while not self.back.endswith(b"\n"):
            self.back += os.read(self.child.stdout.fileno(), 65536)
        self.back = b""
        self.restarted = True
        for id_ in lost:
            error = {"code": -32603, "message": "the child died", "data": {"reason": "child_exited"}}
            self.answer(json.dumps({"jsonrpc": "2.0", "id": id_, "error": error}).encode() + b"\n")

    def answer(self, line: bytes) -> None:
        restarted, self.restarted = self.restarted, False
        for _ in range({"--lose": 0, "--double": 2}.get(self.fault, 1) if restarted else 1):
            os.write(1, line)

    def from_client(self) -> bool:
        data = os.read(0, 65536)
        *lines, self.out = (self.out + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            self.initialize = self.initialize or line + b"\n"
            if "id" in message:
                self.in_flight[message["id"]] = line
            assert self.child.stdin is not None
            try:
                self.child.stdin.write(line + b"\n")
            except BrokenPipeError:
                self.respawn()
        return bool(data)

    def from_child(self) -> None:
        assert self.child.stdout is not None
        data = os.read(self.child.stdout.fileno(), 65536)
        if not data:
            self.respawn()
            return
        *lines, self.back = (self.back + data).split(b"\n")
        for line in lines:
            self.in_flight.pop(json.loads(line).get("id"), None)
            self.answer(line + b"\n")

    def run(self) -> None:
        while True:
            assert self.child.stdout is not None
            back = self.child.stdout.fileno()
            readable, _, _ = select.select([0, back], [], [])
            if back in readable:
                self.from_child()
            elif not self.from_client():
                self.child.kill()
                return


def main() -> None:
    split = sys.argv.index("--")
    Relay("".join(sys.argv[1:split]), sys.argv[split + 1 :]).run()


if __name__ == "__main__":
    main()
