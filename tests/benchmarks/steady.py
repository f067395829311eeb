"""A client that calls at a steady rate and writes down when each call was answered, and by which child."""

import os
import select
from collections.abc import Callable, Mapping
from time import perf_counter

import msgspec

from tests.benchmarks.line import Line, LineClosed, call, decode_answer

__all__ = ["Call", "SteadyCalls"]

READ_SIZE = 1 << 16


class Call(msgspec.Struct):
    """One call; the times are of `time.perf_counter`."""

    sent: float
    answered: float | None = None
    pid: int | None = None
    """The child that answered; None where the answer is an error."""
    error: str | None = None

    @property
    def delay(self) -> float:
        """Seconds from the request to its answer; infinite where there was none."""
        return float("inf") if self.answered is None else self.answered - self.sent


class WhoAmI(msgspec.Struct, frozen=True):
    """The part of a `whoami` result that is wanted here."""

    class Facts(msgspec.Struct, frozen=True):
        pid: int

    structuredContent: Facts  # MCP's spelling


class SteadyCalls:
    """Calls `whoami` every `1 / rate` seconds for as long as it runs, answered or not."""

    def __init__(self, line: Line, *, rate: float, first_id: int = 1_000) -> None:
        self.calls: dict[int, Call] = {}
        self.answers: list[Call] = []
        """Those that are answered, in the order of their answers."""
        self.line = line
        self.doubled = 0
        """Answers to calls that were answered already, or never made."""
        self._interval = 1 / rate
        self._next_id = first_id
        self._due = perf_counter()
        self._out = b""
        self._pieces = b""

    def run(
        self,
        until: Callable[[], bool],
        *,
        limit: float,
        also: Mapping[int, Callable[[bytes], None]] | None = None,
    ) -> bool:
        """Call on until the condition holds, checked after each event; False after `limit` seconds.

        `also` are further file descriptors to read meanwhile, with whoever wants what comes.

        Raises:
            LineClosed: the connection ended.
        """
        end = perf_counter() + limit
        watched = dict(also or {})
        with self.line.nonblocking():
            while not until():
                now = perf_counter()
                if now >= end:
                    return False
                if now >= self._due:
                    self._send(now)
                self._flush()
                writable = [self.line.to] if self._out else []
                wait = max(0.0, min(self._due, end) - perf_counter())
                readable, _, _ = select.select([self.line.back, *watched], writable, [], wait)
                for fd in readable:
                    if fd == self.line.back:
                        self._receive()
                    else:
                        watched[fd](os.read(fd, READ_SIZE))
        return True

    def calm(self, seconds: float) -> None:
        """Call on for so long."""
        end = perf_counter() + seconds
        self.run(lambda: perf_counter() >= end, limit=seconds + 1)

    def settle(self, *, limit: float = 30.0) -> int:
        """Wait for the answers that are outstanding, calling on meanwhile; how many did not come in time."""
        outstanding = [call for call in self.calls.values() if call.answered is None]
        self.run(lambda: all(call.answered is not None for call in outstanding), limit=limit)
        return sum(call.answered is None for call in outstanding)

    @property
    def pid(self) -> int | None:
        """The child that gave the latest good answer."""
        return next((call.pid for call in reversed(self.answers) if call.pid is not None), None)

    def _send(self, now: float) -> None:
        self._out += call(self._next_id, "whoami", {})
        self.calls[self._next_id] = Call(now)
        self._next_id += 1
        self._due = max(self._due + self._interval, now - self._interval)

    def _flush(self) -> None:
        while self._out:
            try:
                self._out = self._out[os.write(self.line.to, self._out) :]
            except BlockingIOError:
                return

    def _receive(self) -> None:
        data = os.read(self.line.back, READ_SIZE)
        now = perf_counter()
        if not data:
            raise LineClosed(f"{self.line.process.args!r} closed its stdout")
        *lines, self._pieces = (self._pieces + data).split(b"\n")
        for text in lines:
            answer = decode_answer(text)
            if answer.method is not None:
                continue
            made = self.calls.get(answer.id) if isinstance(answer.id, int) else None
            if made is None or made.answered is not None:
                self.doubled += 1
                continue
            made.answered = now
            self.answers.append(made)
            if answer.error:
                made.error = bytes(answer.error).decode()
            else:
                made.pid = msgspec.json.decode(answer.result, type=WhoAmI).structuredContent.pid
