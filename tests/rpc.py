"""A raw JSON-RPC client over real descriptors: one mcpkeep process, what was asked and all that came back."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psutil

from tests.benchmarks.line import environment

__all__ = ["LIMIT", "Client", "Fifo", "Message", "default_signals", "is_error", "mcpkeep", "text_of"]

LIMIT = 60.0
"""Seconds for any one wait: a hang becomes a failure."""

CLIENT_INFO = {"name": "rpc", "version": "1"}
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT_INFO}

Message = dict[str, Any]


def mcpkeep(server: Sequence[str], *options: str) -> list[str]:
    """The command line that runs `server` under this checkout's mcpkeep, in the working folder."""
    return [sys.executable, "-m", "mcpkeep.supervisor", "run", *options, "--", *server]


def default_signals() -> None:
    """Undo what a shell sets for a job in the background, which whoever runs the tests may be."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Client:
    """A running mcpkeep and a thread that reads all it says. Use it as a context manager: it ends by EOF."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        *,
        env: Mapping[str, str] | None = None,
        stdio: Literal["pipe", "socket", "pty"] = "pipe",
        preexec: Callable[[], None] | None = None,
    ) -> None:
        """`preexec` runs in the new process; without one it begins with the signals' defaults."""
        self.said: list[Message] = []
        self.garbage: list[bytes] = []
        self.ended = False
        self._changed = threading.Condition()
        self._sending = threading.RLock()
        self._next_id = 0
        child_in, self.to, child_out, self.back = _stdio(stdio)
        self.process = subprocess.Popen(
            command,
            stdin=child_in,
            stdout=child_out,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**environment(), "HOME": str(cwd / "home"), **(env or {})},
            start_new_session=True,
            preexec_fn=preexec or default_signals,
        )
        assert self.process.stderr is not None
        for fd in {child_in, child_out}:
            os.close(fd)
        self._logged: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._stderr = self.process.stderr
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        self._log_reader.start()
        self._may_read = threading.Event()
        self._may_read.set()
        self._reader.start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"what mcpkeep logged:\n{self.log()}\n")
        self.close_stdin()
        self.start_reading()
        try:
            self.process.wait(LIMIT)
        finally:
            with suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
            self._log_reader.join(LIMIT)
            self._stderr.close()
            self._reader.join(LIMIT)
            os.close(self.back)

    # Saying

    def send(self, data: bytes) -> None:
        with self._sending:
            while data:
                data = data[os.write(self.to, data) :]

    def post(self, message: Mapping[str, object]) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def request(self, method: str, params: Mapping[str, object] | None = None) -> int:
        """Ask, and go on; the id of the request."""
        with self._sending:
            self._next_id += 1
            id_ = self._next_id
            self.post({"id": id_, "method": method, "params": params or {}})
        return id_

    def begin(self, name: str, **arguments: object) -> int:
        """Begin a tool call; its id."""
        return self.request("tools/call", {"name": name, "arguments": arguments})

    def call(self, name: str, **arguments: object) -> Message:
        """Call a tool and wait for the answer."""
        return self.answer(self.begin(name, **arguments))

    def keep(self, action: str, **arguments: object) -> Message:
        """Call the tool `mcpkeep`; the members of its structured answer."""
        content: Message = self.call("mcpkeep", action=action, **arguments)["result"]["structuredContent"]
        return content

    def initialize(self) -> Message:
        """Open the session; the answer."""
        answer = self.answer(self.request("initialize", INITIALIZE))
        self.post({"method": "notifications/initialized"})
        return answer

    def close_stdin(self) -> None:
        """The client ends: what it wrote is there still, and nothing more comes."""
        if self.to >= 0:
            if self.to == self.back:
                with suppress(OSError), socket.socket(fileno=os.dup(self.to)) as both:
                    both.shutdown(socket.SHUT_WR)
            else:
                os.close(self.to)
            self.to = -1

    def hang_up(self) -> None:
        """The client is gone: nobody reads any more either. After stop_reading()."""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self.back)
        os.close(null)
        self.close_stdin()

    # Hearing

    def stop_reading(self) -> None:
        """Read no more, but for what one read may bring."""
        self._may_read.clear()

    def start_reading(self) -> None:
        self._may_read.set()

    def wait_for(self, condition: Callable[[], bool], what: str = "that") -> None:
        """Wait until the condition holds; it is looked at whenever a line came, or mcpkeep ended."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition() or self.ended, LIMIT) or not condition():
                raise AssertionError(
                    f"{what} did not come; said: {self.said[-5:]!r}; logged:\n{self.log()[-4000:]}"
                )

    def answer(self, id_: int) -> Message:
        """Wait for the answer of a request; that there is one only, `answers` tells."""
        self.wait_for(lambda: bool(self.answers(id_)), f"the answer {id_}")
        return self.answers(id_)[0]

    def answers(self, id_: int) -> list[Message]:
        return [said for said in self.said if said.get("id") == id_ and "method" not in said]

    def notified(self, method: str) -> list[Message]:
        return [said["params"] for said in self.said if said.get("method") == f"notifications/{method}"]

    def wait_until_ended(self) -> int:
        """Wait for mcpkeep's end; its exit code, the negative signal where one ended it."""
        return self.process.wait(LIMIT)

    def log(self) -> str:
        """What mcpkeep has written to stderr."""
        return b"".join(self._logged).decode(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Wait until mcpkeep has written this to stderr."""
        self.wait_for(lambda: text in self.log(), f"{text!r} in the log")

    def pid(self) -> int:
        """The pid of the server that serves now."""
        pid: int = self.keep("status")["server"]["pid"]
        return pid

    def kill_server(self) -> None:
        """SIGKILL the server, and wait until it is dead: a dying process may still read a pipe."""
        server = psutil.Process(self.pid())
        server.kill()
        server.wait(LIMIT)

    def _read(self) -> None:
        pieces: list[bytes] = []  # of a line whose end has not come: joining at once would be quadratic
        while self._may_read.wait() and (data := _read_some(self.back)):
            *lines, rest = data.split(b"\n")
            with self._changed:
                for line in lines:
                    self._take(b"".join((*pieces, line)))
                    pieces.clear()
                pieces.append(rest)
                self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _read_log(self) -> None:
        while data := _read_some(self._stderr.fileno()):
            with self._changed:
                self._logged.append(data)
                self._changed.notify_all()

    def _take(self, line: bytes) -> None:
        try:
            self.said.append(json.loads(line))
        except ValueError:
            self.garbage.append(line)


class Fifo:
    """A FIFO that a server's call waits for, so that a test knows where the call is."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = folder / name
        os.mkfifo(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def wait_until_reached(self) -> int:
        """Wait until the call has begun; the descriptor that lets it go when it is closed."""
        return os.open(self.path, os.O_WRONLY)

    def let_go(self) -> None:
        """Wait until the call has begun, and let it answer."""
        os.close(self.wait_until_reached())


def text_of(answer: Message) -> str:
    """The text of a tool's answer."""
    text: str = answer["result"]["content"][0]["text"]
    return text


def is_error(answer: Message, reason: str) -> bool:
    """Whether the answer is mcpkeep's error for this reason."""
    error: Message = answer.get("error", {})
    data: Message = error.get("data", {})
    return error.get("code") == -32603 and data.get("reason") == reason


def _stdio(kind: str) -> tuple[int, int, int, int]:
    """The other side's stdin, our end of it, its stdout, our end of it."""
    match kind:
        case "socket":
            theirs, ours = socket.socketpair()
            fd = ours.detach()
            child = theirs.detach()
            return child, fd, child, fd
        case "pty":
            master, slave = os.openpty()
            tty.setraw(slave)
            return slave, master, slave, os.dup(master)
        case _:
            child_in, to = os.pipe()
            back, child_out = os.pipe()
            return child_in, to, child_out, back


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 18)
    except OSError:  # a terminal whose other side is gone
        return b""
