"""Kill a fast child again and again under load, and check what a client and the machine are left with.

`python -m tests.benchmarks --soak 10000`, or `run_soak` and `violations` from a test.
"""

import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Literal

import msgspec
import psutil

from tests.benchmarks.figures import Table, growth
from tests.benchmarks.life import NO_LIMIT
from tests.benchmarks.line import Line, LineClosed, call, decode_answer, mcpkeep_command
from tests.servers import fast_command

__all__ = ["Ledger", "Reading", "Soak", "run_soak", "soak_table", "violations"]

IN_FLIGHT = 8
ANSWERS_BETWEEN_KILLS = 20
ASK_AGAIN = 500
"""Calls after which the question for the child's pid counts as lost, and another is put."""
RSS_BOUND = 2**20
"""Bytes. Less than what one leaked kilobyte for each of 10,000 kills would be."""
OPEN_FILES_BOUND = 2
"""A child that is being started has a few pipe ends open while the others are still counted."""


class Ledger:
    """Which requests are outstanding, and whether each was answered exactly once."""

    def __init__(self) -> None:
        self.outstanding: set[int] = set()
        self.sent = 0
        self.good = 0
        self.failed = 0
        self.doubled = 0
        """Answers to requests that were answered already, or never sent."""

    def send(self) -> int:
        """The id of the next request."""
        self.sent += 1
        self.outstanding.add(self.sent)
        return self.sent

    def answer(self, id_: int | str | None, *, error: bool) -> None:
        if not isinstance(id_, int) or id_ not in self.outstanding:
            self.doubled += 1
            return
        self.outstanding.remove(id_)
        if error:
            self.failed += 1
        else:
            self.good += 1


class Reading(msgspec.Struct, frozen=True):
    """What the relay's process holds at one moment."""

    rss: int
    open_files: int
    processes: int
    """Its descendants."""

    @classmethod
    def of(cls, process: psutil.Process) -> "Reading":
        return cls(process.memory_info().rss, process.num_fds(), len(process.children(recursive=True)))


class Soak(msgspec.Struct, frozen=True):
    """The outcome."""

    kills: int
    calls: int
    good: int
    failed: int
    lost: int
    doubled: int
    orphans: int
    readings: tuple[Reading, ...]
    seconds: float
    ending: Literal["clean", "closed early", "stuck"] = "clean"


class WhoAmI(msgspec.Struct, frozen=True):
    class Facts(msgspec.Struct, frozen=True):
        pid: int

    structuredContent: Facts  # MCP's spelling


def violations(soak: Soak) -> list[str]:
    """What was promised and not kept, in words; empty where all was."""
    broken: list[str] = []
    if soak.ending != "clean":
        broken.append(f"the session ended {soak.ending} after {soak.kills} kills")
    if soak.lost:
        broken.append(f"{soak.lost} requests were never answered")
    if soak.doubled:
        broken.append(f"{soak.doubled} answers had no request waiting for them")
    if soak.orphans:
        broken.append(f"{soak.orphans} processes outlived the session")
    if len(soak.readings) >= 8:
        rss = growth([reading.rss for reading in soak.readings])
        if rss > RSS_BOUND:
            broken.append(f"the resident memory grew by {rss / 1024:,.0f} kiB")
        files = growth([reading.open_files for reading in soak.readings])
        if files > OPEN_FILES_BOUND:
            broken.append(f"the open files grew by {files:g}")
        processes = growth([reading.processes for reading in soak.readings])
        if processes >= 1:
            broken.append(f"the descendants grew by {processes:g}")
    return broken


class Load:
    """Calls on one line, always so many in flight, that kill the child between."""

    def __init__(self, line: Line, *, answer_limit: float) -> None:
        self.ledger = Ledger()
        self.line = line
        self.pid: int | None = None
        """The child that serves, once it has told."""
        self._answer_limit = answer_limit
        self._asking = 0
        self._out = bytearray()
        self._rest = b""
        self._since = 0

    def until_next_kill(self) -> None:
        """Call on until a child that can be killed has answered a few calls.

        Raises:
            LineClosed: the connection ended.
            TimeoutError: nothing was answered for too long.
        """
        self._since = 0
        self._turn_until(lambda: self.pid is not None and self._since >= ANSWERS_BETWEEN_KILLS, calling=True)

    def finish(self) -> None:
        """Wait for what is outstanding, calling no more; raises as until_next_kill."""
        self._turn_until(lambda: not self.ledger.outstanding, calling=False)

    def kill(self) -> None:
        """Kill the child that serves, with as many calls under way as the pipe takes at once."""
        assert self.pid is not None
        self._fill()
        with suppress(BlockingIOError):
            self._send()
        os.kill(self.pid, signal.SIGKILL)
        self.pid = None
        self._asking = 0

    def _turn_until(self, done: Callable[[], bool], *, calling: bool) -> None:
        latest = perf_counter()
        while not done():
            if calling:
                self._fill()
            writable = [self.line.to] if self._out else []
            readable, writable, _ = select.select([self.line.back], writable, [], 1.0)
            if writable:
                self._send()
            if readable:
                self._receive()
                latest = perf_counter()
            elif perf_counter() - latest > self._answer_limit:
                raise TimeoutError(f"nothing was answered for {self._answer_limit} s")

    def _fill(self) -> None:
        while len(self.ledger.outstanding) < IN_FLIGHT:
            id_ = self.ledger.send()
            if self.pid is None and (not self._asking or id_ - self._asking > ASK_AGAIN):
                self._asking = id_
                self._out += call(id_, "whoami", {})
            else:
                self._out += call(id_, "echo", {"text": "soak"})

    def _send(self) -> None:
        del self._out[: os.write(self.line.to, self._out)]

    def _receive(self) -> None:
        data = os.read(self.line.back, 1 << 16)
        if not data:
            raise LineClosed("the relay closed its stdout")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            answer = decode_answer(text)
            if answer.method is not None:
                continue
            self.ledger.answer(answer.id, error=bool(answer.error))
            self._since += not answer.error
            if answer.id == self._asking:
                self._asking = 0
                if answer.result:
                    pid = msgspec.json.decode(answer.result, type=WhoAmI).structuredContent.pid
                    self.pid = pid if psutil.pid_exists(pid) else None


def run_soak(
    *,
    cwd: Path,
    kills: int,
    command: Callable[[Sequence[str]], Sequence[str]] = mcpkeep_command,
    say: Callable[[str], None] | None = None,
    answer_limit: float = 60.0,
) -> Soak:
    """Kill the child `kills` times.

    Args:
        command: makes the relay's command line out of the server's.
        say: is told now and then how far it is.
        answer_limit: seconds without any answer after which the relay counts as stuck.
    """
    start = perf_counter()
    done = 0
    ending: Literal["clean", "closed early", "stuck"] = "clean"
    with TemporaryDirectory(prefix="mcpkeep-soak-") as folder:
        server = fast_command("--liveness", str(Path(folder, "alive")))
        os.mkfifo(Path(folder, "alive"))
        alive = os.open(Path(folder, "alive"), os.O_RDONLY | os.O_NONBLOCK)
        line = Line(command(server), cwd=cwd, env=NO_LIMIT)
        load = Load(line, answer_limit=answer_limit)
        readings: list[Reading] = []
        relay = psutil.Process(line.process.pid)
        every = max(1, kills // 100)
        try:
            line.initialize()
            with line.nonblocking():
                for done in range(1, kills + 1):
                    load.until_next_kill()
                    if done % every == 0:
                        readings.append(Reading.of(relay))
                    load.kill()
                    if say is not None and done % max(1, kills // 10) == 0:
                        say(f"{done:,} kills, {load.ledger.sent:,} calls, {perf_counter() - start:.0f} s")
                load.finish()
        except LineClosed:
            ending = "closed early"
        except TimeoutError:
            ending = "stuck"
        finally:
            line.close()
            orphans = end_orphans(alive, folder)
            os.close(alive)
    ledger = load.ledger
    lost = len(ledger.outstanding)
    return Soak(
        *(done, ledger.sent, ledger.good, ledger.failed, lost, ledger.doubled, orphans, tuple(readings)),
        perf_counter() - start,
        ending,
    )


def end_orphans(alive: int, folder: str) -> int:
    """How many processes of the session are still there; none is afterwards.

    Each of them holds the FIFO open: its end is the kernel's word that all are gone.
    """
    readable, _, _ = select.select([alive], [], [], 2.0)
    if readable and not os.read(alive, 1):
        return 0
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(folder in word for word in process.info["cmdline"] or ())
    ]
    for process in found:
        process.kill()
    return max(1, len(found))


def soak_table(soak: Soak) -> Table:
    broken = violations(soak)
    middle = soak.readings[len(soak.readings) // 2] if soak.readings else None
    last = soak.readings[-1] if soak.readings else None
    rows = [
        ("SIGKILLs of the child", f"{soak.kills:,}"),
        ("calls", f"{soak.calls:,}"),
        ("answered by a child", f"{soak.good:,}"),
        ("answered with an error (the child had taken them)", f"{soak.failed:,}"),
        ("never answered", f"{soak.lost:,}"),
        ("answered twice", f"{soak.doubled:,}"),
        ("processes left behind", f"{soak.orphans:,}"),
        ("seconds", f"{soak.seconds:,.0f}"),
    ]
    if middle is not None and last is not None:
        rows += [
            ("RSS, middle and end (MiB)", f"{middle.rss / 2**20:.2f}  {last.rss / 2**20:.2f}"),
            ("open files, middle and end", f"{middle.open_files}  {last.open_files}"),
        ]
    rows.append(("nothing lost, doubled, left or grown", "MISSED" if broken else "met"))
    return Table("Soak", ("", "count"), tuple(rows), tuple(broken))
