"""Start, idling, and what a client waits when the child is killed or replaced under 100 calls a second."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import msgspec
import psutil

from tests.benchmarks.figures import Table, percentile
from tests.benchmarks.line import Line, mcpkeep_command
from tests.benchmarks.steady import SteadyCalls
from tests.servers import fast_command

__all__ = ["gap_table", "idle_table", "measure_starts", "overlap_table", "start_table"]

RATE = 100.0
MARK = 'echo $$ > "$0"; exec "$@"'
"""For /bin/sh: write into the FIFO, then become the server. Tells within 2 ms when the child was executed."""

NO_LIMIT = {
    "MCPKEEP_RESTART_INTENSITY": "0",
    "MCPKEEP_RESTART_PERIOD": "1",
    "MCPKEEP_RESTART_BACKOFF_BASE": "0",
}
"""For whoever kills children on purpose: without it mcpkeep would rightly give such a child up."""


def measure_starts(paths: Mapping[str, Sequence[str]], *, cwd: Path, runs: int) -> dict[str, list[float]]:
    """Seconds from spawning each path to its answer to `initialize`, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(runs):
        for name, command in paths.items():
            line = Line(command, cwd=cwd)
            try:
                seconds[name].append(line.initialize())
            finally:
                line.close()
    return seconds


def start_table(paths: Mapping[str, Sequence[str]], *, cwd: Path, runs: int) -> Table:
    seconds = measure_starts(paths, cwd=cwd, runs=runs)
    direct = seconds["direct"]
    rows: list[tuple[str, ...]] = []
    for name, values in seconds.items():
        added = percentile(values, 0.5) - percentile(direct, 0.5)
        cells = (min(values), percentile(values, 0.5), percentile(values, 0.95))
        verdict = ("met" if added < 0.120 else "MISSED") if name == "mcpkeep" else ""
        added_cell = "" if name == "direct" else f"{added * 1e3:.1f}"
        rows.append((name, *(f"{value * 1e3:.1f}" for value in cells), added_cell, verdict))
    return Table(
        f"Start: from spawn to the answer to initialize, {runs} runs (ms)",
        ("", "min", "p50", "p95", "added p50", "reach"),
        tuple(rows),
        ("to reach: less than 120 ms on top of the server's own",),
    )


class Usage(msgspec.Struct, frozen=True):
    """What a process has used so far, and holds."""

    rss: int
    cpu: float
    switches: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Usage":
        times = process.cpu_times()
        return cls(process.memory_info().rss, times.user + times.system, process.num_ctx_switches().voluntary)


def watcher_of(process: psutil.Process) -> psutil.Process | None:
    """The process that ends the tree when mcpkeep is killed: a direct child that is not the server."""
    for child in process.children():
        if "sweep" in " ".join(child.cmdline()):
            return child
    return None


def idle_table(*, cwd: Path, seconds: float) -> Table:
    """What mcpkeep and its watcher use while nobody calls."""
    # A server that was used is checked once when it falls quiet; that is over before the idling is measured.
    line = Line(mcpkeep_command(fast_command()), cwd=cwd, env={"MCPKEEP_HEALTH_AFTER_IDLE": "1"})
    try:
        line.initialize()
        mcpkeep = psutil.Process(line.process.pid)
        time.sleep(2)  # what a start leaves to do is done by then
        named = {"mcpkeep": mcpkeep, "its watcher": watcher_of(mcpkeep)}
        known = {name: process for name, process in named.items() if process is not None}
        before = {name: Usage.of(process) for name, process in known.items()}
        time.sleep(seconds)
        after = {name: Usage.of(process) for name, process in known.items()}
    finally:
        line.close()
    rows: list[tuple[str, ...]] = []
    for name in known:
        cpu = (after[name].cpu - before[name].cpu) / seconds
        switches = after[name].switches - before[name].switches
        rss = after[name].rss / 1e6
        verdict = "met" if rss < 35 and cpu < 0.0005 and switches == 0 else "MISSED"
        rows.append((name, f"{rss:.1f}", f"{cpu:.1%}", f"{switches}", verdict if name == "mcpkeep" else ""))
    return Table(
        f"Idle for {seconds:g} s",
        ("", "RSS MB", "CPU", "wake-ups", "reach"),
        tuple(rows),
        ("to reach: under 35 MB, 0.0 %, no wake-up (voluntary context switch)",),
    )


class Gap(msgspec.Struct, frozen=True):
    """After one SIGKILL: seconds to the next child's exec, and to the first call that it answered."""

    executed: float
    answered: float
    failed: int
    """Calls in flight that were answered with an error."""


def marked(fifo: Path) -> list[str]:
    return ["/bin/sh", "-c", MARK, str(fifo), *fast_command()]


class MarkedServer:
    """The fast server behind a FIFO that tells when it was executed."""

    def __init__(self, folder: Path) -> None:
        self.fifo = folder / "executed"
        os.mkfifo(self.fifo)
        self.fd = os.open(self.fifo, os.O_RDWR)
        self.command = marked(self.fifo)

    def close(self) -> None:
        os.close(self.fd)


def measure_gap(steady: SteadyCalls, server: MarkedServer) -> Gap:
    steady.calm(0.3)
    old, seen = steady.pid, len(steady.answers)
    if old is None:
        raise AssertionError("no call was answered before the kill")
    executed: list[float] = []
    killed = perf_counter()
    os.kill(old, signal.SIGKILL)
    recovered = steady.run(
        partial(replaced, steady, old),
        limit=30,
        also={server.fd: lambda _: executed.append(perf_counter())},
    )
    answered = perf_counter()
    if not recovered or not executed:
        raise AssertionError("no call was answered within 30 s after the kill")
    failed = sum(call.error is not None for call in steady.answers[seen:])
    return Gap(executed[0] - killed, answered - killed, failed)


def gap_table(*, cwd: Path, kills: int) -> Table:
    """What the client waits after each SIGKILL of the child, against what the child itself needs to start."""
    with TemporaryDirectory() as folder:
        server = MarkedServer(Path(folder))
        own = measure_starts({"direct": server.command}, cwd=cwd, runs=max(10, kills))["direct"]
        os.read(server.fd, 10_000)
        line = Line(mcpkeep_command(server.command), cwd=cwd, env=NO_LIMIT)
        try:
            line.initialize()
            os.read(server.fd, 100)
            steady = SteadyCalls(line, rate=RATE)
            gaps = [measure_gap(steady, server) for _ in range(kills)]
            lost = steady.settle()
        finally:
            line.close()
            server.close()
    answered, executed = [gap.answered for gap in gaps], [gap.executed for gap in gaps]
    beyond = percentile(answered, 0.5) - percentile(own, 0.5)
    rows: list[tuple[str, ...]] = [
        ("the child's own start", *three(own), "", ""),
        ("kill to exec of the next", *three(executed), "", reach(percentile(executed, 0.5) <= 0.010)),
        ("kill to next answered call", *three(answered), f"{beyond * 1e3:+.1f}", reach(beyond <= 0.015)),
    ]
    calls = len(steady.calls)
    whole = lost == 0 and steady.doubled == 0
    failed = sum(gap.failed for gap in gaps)
    rows.append((f"{calls:,} calls: {lost} lost, {steady.doubled} doubled", *[""] * 4, reach(whole)))
    return Table(
        f"SIGKILL of the child under {RATE:g} calls a second, {kills} times (ms)",
        ("", "min", "p50", "max", "beyond own start", "reach"),
        tuple(rows),
        (f"{failed} calls that the dead child had taken were answered with an error; all others succeeded",),
    )


def overlap_table(*, cwd: Path, restarts: int) -> Table:
    """The longest delay and the failures while SIGUSR2 replaces the child in overlap."""
    line = Line(mcpkeep_command(fast_command()), cwd=cwd, env=NO_LIMIT)
    try:
        line.initialize()
        steady = SteadyCalls(line, rate=RATE)
        delays: list[float] = []
        for _ in range(restarts):
            steady.calm(0.3)
            old, seen = steady.pid, len(steady.answers)
            os.kill(line.process.pid, signal.SIGUSR2)
            if not steady.run(partial(replaced, steady, old), limit=30):
                raise AssertionError("the child was not replaced within 30 s after SIGUSR2")
            steady.calm(0.3)
            delays.append(max(call.delay for call in steady.answers[seen:]))
        lost = steady.settle()
    finally:
        line.close()
    failed = sum(call.error is not None for call in steady.answers)
    met = failed == lost == steady.doubled == 0 and max(delays) <= 0.050
    return Table(
        f"SIGUSR2 in overlap under {RATE:g} calls a second, {restarts} times",
        ("", "calls", "failed", "lost", "doubled", "longest delay ms", "reach"),
        (
            (
                *("mcpkeep", f"{len(steady.calls):,}", str(failed), str(lost), str(steady.doubled)),
                *(f"{max(delays) * 1e3:.1f}", reach(met)),
            ),
        ),
        ("to reach: no call fails, none is delayed by more than 50 ms",),
    )


def replaced(steady: SteadyCalls, old: int | None) -> bool:
    return steady.pid not in (None, old)


def three(values: Sequence[float]) -> tuple[str, str, str]:
    return (
        f"{min(values) * 1e3:.1f}",
        f"{percentile(values, 0.5) * 1e3:.1f}",
        f"{max(values) * 1e3:.1f}",
    )


def reach(met: bool) -> str:
    return "met" if met else "MISSED"
