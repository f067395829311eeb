"""A raw MCP client for measuring: bare reads and writes on the pipes of one process, no SDK between."""

import os
import select
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import msgspec

__all__ = ["INITIALIZE", "INITIALIZED", "Answer", "Line", "LineClosed", "call", "mcpkeep_command", "request"]

ROOT = Path(__file__).parents[2]
READ_SIZE = 1 << 18
STALLED = 30.0
"""Seconds without a byte either way, after which a relay counts as deadlocked."""


class LineClosed(Exception):
    """The other side closed the connection, which no client of mcpkeep should ever see."""


class Answer(msgspec.Struct, frozen=True):
    """What matters of one message that came back; a notification has no id."""

    id: int | str | None = None
    method: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


decode_answer = msgspec.json.Decoder(Answer).decode


def request(id_: int, method: str, params: Mapping[str, object] | None = None) -> bytes:
    """One request as a line."""
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}}
    return msgspec.json.encode(message) + b"\n"


def call(id_: int, name: str, arguments: Mapping[str, object]) -> bytes:
    """One tool call as a line."""
    return request(id_, "tools/call", {"name": name, "arguments": arguments})


INITIALIZE = request(
    0,
    "initialize",
    {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    },
)
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


_SCRIPT = "import sys; from mcpkeep.supervisor.app import cli; sys.exit(cli())"
"""What pip makes of `[project.scripts]`; `python -m` would import runpy first."""


def mcpkeep_command(server: Sequence[str], *options: str) -> list[str]:
    """The command line that runs `server` under this checkout's mcpkeep, as the installed `mcpkeep` would."""
    return [sys.executable, "-c", _SCRIPT, "run", *options, "--", *server]


def environment() -> dict[str, str]:
    """The environment in which this checkout's mcpkeep is importable, installed or not."""
    path = os.pathsep.join(filter(None, (str(ROOT / ".links"), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


class Line:
    """A running command and the pipes to it."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.started = perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=cwd,
            env={**environment(), **(env or {})},
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.to = self.process.stdin.fileno()
        self.back = self.process.stdout.fileno()
        self.rest = b""

    def initialize(self) -> float:
        """Open the session; the seconds from the start of the process to the answer."""
        self.exchange(INITIALIZE)
        elapsed = perf_counter() - self.started
        os.write(self.to, INITIALIZED)
        return elapsed

    def exchange(self, frame: bytes) -> bytes:
        """Send one request and wait for one line. Only while nothing else is in flight.

        Raises:
            LineClosed: the connection ended instead.
        """
        while frame:
            frame = frame[os.write(self.to, frame) :]
        if self.rest:
            return self.next_line()
        data = os.read(self.back, READ_SIZE)
        if data.endswith(b"\n") and data.count(b"\n") == 1:
            return data
        self.rest = data
        return self.next_line()

    def next_line(self) -> bytes:
        """The next line that came; waits for it.

        Raises:
            LineClosed: the connection ended instead.
        """
        pieces = [self.rest]
        while b"\n" not in pieces[-1]:
            data = os.read(self.back, READ_SIZE)
            if not data:
                raise LineClosed(f"{self.process.args!r} closed its stdout")
            pieces.append(data)
        line, _, self.rest = b"".join(pieces).partition(b"\n")
        return line + b"\n"

    def stream(self, frames: Sequence[bytes], *, window: int) -> float:
        """Send all frames with at most `window` in flight, until all are answered; the seconds it took.

        Raises:
            LineClosed: the connection ended before.
            TimeoutError: nothing moves any more.
        """
        with self.nonblocking():
            start = perf_counter()
            sent = answered = 0
            out: list[memoryview] = []
            poll = select.poll()
            poll.register(self.back, select.POLLIN)
            while answered < len(frames):
                while sent < len(frames) and sent - answered < window:
                    out.append(memoryview(frames[sent]))
                    sent += 1
                while out:
                    try:
                        written = os.write(self.to, out[0])
                    except BlockingIOError:
                        break
                    out[0] = out[0][written:]
                    if not out[0]:
                        del out[0]
                if out:
                    poll.register(self.to, select.POLLOUT)
                else:
                    poll.register(self.to, 0)
                if not poll.poll(STALLED * 1000):
                    raise TimeoutError(
                        f"{self.process.args!r} stalled with {answered} of {len(frames)} answered"
                    )
                try:
                    while data := os.read(self.back, READ_SIZE):
                        answered += data.count(b"\n")
                        if answered >= len(frames):
                            break
                    else:
                        raise LineClosed(f"{self.process.args!r} closed its stdout")
                except BlockingIOError:
                    pass
            return perf_counter() - start

    @contextmanager
    def nonblocking(self) -> Generator[None]:
        """Neither end blocks meanwhile: two sides that both write and block would wait for each other."""
        os.set_blocking(self.to, False)
        os.set_blocking(self.back, False)
        try:
            yield
        finally:
            os.set_blocking(self.to, True)
            os.set_blocking(self.back, True)

    def close(self, *, limit: float = 10.0) -> int:
        """End the session as clients do, and wait; the exit code, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it did not end within `limit` seconds, and was killed.
        """
        with self.process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
