"""Workflow calls through the whole stack: beside the relay's round trip, at once, and with many sessions."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import msgspec
import psutil

from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.snapshot import encode_snapshot
from mcpkeep.supervisor.session_store import SessionFiles
from tests.benchmarks.figures import Table, percentile
from tests.benchmarks.line import Line, call, decode_answer, mcpkeep_command
from tests.servers import fast_command
from tests.workflows import make_workflow, make_workspace

__all__ = ["workflow_calls_table", "workflow_scale_table"]

TARGET = {"workflow_type": "two", "target_file": "a.py"}
DONE = {"done": True}
CROWD = 64


class Caller:
    """One client of one mcpkeep in a workspace of its own."""

    def __init__(self, workspace: Path) -> None:
        self.line = Line(mcpkeep_command(fast_command()), cwd=workspace)
        self.line.initialize()
        self._id = 10

    def timed(self, tool: str, arguments: Mapping[str, object]) -> tuple[float, dict[str, Any]]:
        """Seconds from call to answer, and the answer."""
        self._id += 1
        frame = call(self._id, tool, arguments)
        begun = perf_counter()
        line = self.line.exchange(frame)
        seconds = perf_counter() - begun
        result: dict[str, Any] = msgspec.json.decode(decode_answer(line).result)
        answer: dict[str, Any] = result.get("structuredContent", result)
        if answer.get("status") == "error":
            raise AssertionError(f"{arguments!r} was answered {answer!r}")
        return seconds, answer

    def workflow(self, action: str, **arguments: object) -> tuple[float, dict[str, Any]]:
        return self.timed("pos_workflow", {"action": action, **arguments})

    def at_once(self, frames: Sequence[Mapping[str, object]]) -> tuple[float, list[float]]:
        """Send all calls and wait for all answers; the seconds of all, and of each since all were sent."""
        begun = perf_counter()
        os.write(self.line.to, b"".join(call(n, "pos_workflow", frame) for n, frame in enumerate(frames)))
        each: list[float] = []
        for _ in frames:
            answer = decode_answer(self.line.next_line())
            each.append(perf_counter() - begun)
            if b'"status":"success"' not in bytes(answer.result):
                raise AssertionError(f"answered {bytes(answer.result)!r}")
        return perf_counter() - begun, each


def fsync_seconds(folder: Path, rounds: int) -> list[float]:
    """What the disk takes for one fsync of a small file that was just written."""
    seconds: list[float] = []
    for number in range(rounds):
        with (folder / f"fsync-{number}").open("wb") as file:
            file.write(b"x" * 2000)
            file.flush()
            begun = perf_counter()
            os.fsync(file.fileno())
            seconds.append(perf_counter() - begun)
    return seconds


def repeat(rounds: int, once: Callable[[], tuple[float, object]]) -> list[float]:
    return [once()[0] for _ in range(rounds)]


def workflow_calls_table(*, rounds: int) -> Table:
    """Reads above the relay's own round trip; durable changes; sixty-four sessions at once."""
    with TemporaryDirectory(prefix="mcpkeep-benchmark-") as folder:
        workspace = make_workspace(Path(folder) / "project")
        make_workflow(workspace, "two", phases=6)
        caller = Caller(workspace)
        try:
            disk = fsync_seconds(workspace, rounds)
            rows = list(_calls(caller, rounds, 0.005 + 2 * max(0.0, percentile(disk, 0.5) - 0.001)))
            facts = caller.timed("mcpkeep", {"action": "status"})[1]["workflows"]["definitions"]
        finally:
            caller.line.close()
    return Table(
        f"Workflow calls through mcpkeep, {rounds} rounds (ms)",
        ("", "p50", "p95", "p99", "above the relay", "reach"),
        tuple(rows),
        (
            f"one fsync on this disk: p50 {percentile(disk, 0.5) * 1e3:.2f} ms, "
            f"p99 {percentile(disk, 0.99) * 1e3:.2f} ms; a change makes two, of the file and of its folder",
            f"definitions came from the cache in {facts['hit_rate']:.1%} "
            f"of {facts['hits'] + facts['misses']} questions",
            "to reach: reads under 2 ms above the relay's own round trip; changes under 5 ms p50 where "
            "an fsync takes 1 ms (more by what two slower ones take); 64 sessions at once faster than one "
            "after the other, p99 under 100 ms",
        ),
    )


def _row(name: str, seconds: list[float], *, reach: str = "", above: float | None = None) -> tuple[str, ...]:
    cells = (f"{percentile(seconds, share) * 1e3:.2f}" for share in (0.5, 0.95, 0.99))
    return name, *cells, "" if above is None else f"{above * 1e3:.2f}", reach


def _calls(caller: Caller, rounds: int, change_limit: float) -> Iterator[tuple[str, ...]]:
    ids = [caller.workflow("start", **TARGET)[1]["session_id"] for _ in range(100)]
    relay = repeat(rounds, lambda: caller.timed("echo", {"text": "x" * 1000}))
    base = percentile(relay, 0.5)
    yield _row("relay: echo of 1 kB", relay)
    reads: dict[str, Callable[[], tuple[float, object]]] = {
        "list_workflows": lambda: caller.workflow("list_workflows"),
        "get_state": lambda: caller.workflow("get_state", session_id=ids[0]),
        "list_sessions of 100": lambda: caller.workflow("list_sessions"),
    }
    for name, once in reads.items():
        seconds = repeat(rounds, once)
        above = percentile(seconds, 0.5) - base
        yield _row(name, seconds, above=above, reach="met" if above < 0.002 else "MISSED")
    begun: list[str] = []

    def start() -> tuple[float, dict[str, Any]]:
        taken, answer = caller.workflow("start", workflow_type="two", target_file=f"{len(begun)}.py")
        begun.append(answer["session_id"])
        return taken, answer

    def complete() -> tuple[float, object]:
        return caller.workflow("complete_phase", session_id=begun.pop(), phase=1, evidence=DONE)

    for name, once in {"start": start, "complete_phase": complete}.items():
        seconds = repeat(rounds, once)
        yield _row(name, seconds, reach="met" if percentile(seconds, 0.5) < change_limit else "MISSED")
    serial: list[float] = []
    together: list[float] = []
    latencies: list[float] = []
    for _ in range(max(3, rounds // 40)):
        # New ones each time: a session that went through many phases takes longer to write.
        one_by_one, at_once = (
            [
                {
                    "action": "complete_phase",
                    "session_id": start()[1]["session_id"],
                    "phase": 1,
                    "evidence": DONE,
                }
                for _ in range(CROWD)
            ]
            for _ in range(2)
        )
        serial.append(sum(caller.timed("pos_workflow", each)[0] for each in one_by_one))
        total, each = caller.at_once(at_once)
        together.append(total)
        latencies += each
    yield _row(f"{CROWD} complete_phase one after the other, in all", serial)
    faster = percentile(together, 0.5) < percentile(serial, 0.5)
    yield _row(f"{CROWD} sessions at once, in all", together, reach="met" if faster else "MISSED")
    p99 = percentile(latencies, 0.99)
    yield _row(f"{CROWD} sessions at once, each", latencies, reach="met" if p99 < 0.1 else "MISSED")


def workflow_scale_table(*, sessions: int, rounds: int) -> Table:
    """Many sessions on disk: until they are read, lists of them, and the memory for 1,000 of 10 kB."""
    rows: list[tuple[str, ...]] = []
    with TemporaryDirectory(prefix="mcpkeep-benchmark-") as folder:
        many = _filled(Path(folder) / "many", sessions, size=1_000)
        readings: list[float] = []
        for _ in range(3):
            files = SessionFiles(many / ".praxis-os" / "state" / "workflows", who="a benchmark")
            begun = perf_counter()
            assert len(files.refresh().changed) == sessions
            readings.append(perf_counter() - begun)
        best = percentile(readings, 0.5)
        rows.append(_cell(f"{sessions:,} sessions read at the start", best, "s", best < 1.5))
        caller = Caller(many)
        try:
            first, answer = caller.workflow("list_sessions")
            assert answer["count"] == sessions
            rows.append(_cell("the first list_sessions after a start", first, "s", None))
            seconds = repeat(rounds, lambda: caller.workflow("list_sessions"))
            p50 = percentile(seconds, 0.5)
            rows.append(_cell(f"list_sessions of {sessions:,}, p50", p50 * 1e3, "ms", p50 < 0.02))
            caller.workflow("start", workflow_type="test_gen_v3", target_file="a.py")
            seconds = repeat(rounds, lambda: caller.workflow("list_sessions"))
            p50 = percentile(seconds, 0.5)
            rows.append(_cell("the same as the writer, p50", p50 * 1e3, "ms", p50 < 0.02))
        finally:
            caller.line.close()
        held = [_resident(_filled(Path(folder) / f"{n}", n, size=10_000)) for n in (1, 1_000)]
        rows.append(
            _cell(
                "memory for 1,000 sessions of 10 kB",
                (held[1] - held[0]) / 1e6,
                "MB",
                held[1] - held[0] < 50e6,
            )
        )
    return Table(
        "Many workflow sessions",
        ("", "", "reach"),
        tuple(rows),
        (
            "to reach: 10,000 sessions read in under 1.5 s, list_sessions under 20 ms, under 50 MB",
            "a start of mcpkeep reads no session; the first call does",
        ),
    )


def _resident(workspace: Path) -> int:
    """Bytes of mcpkeep once it knows all sessions of this workspace."""
    caller = Caller(workspace)
    try:
        caller.workflow("list_sessions")
        return psutil.Process(caller.line.process.pid).memory_info().rss
    finally:
        caller.line.close()


def _cell(name: str, value: float, unit: str, met: bool | None) -> tuple[str, str, str]:
    return name, f"{value:.2f} {unit}", "" if met is None else "met" if met else "MISSED"


def _filled(workspace: Path, sessions: int, *, size: int) -> Path:
    """A workspace with so many sessions of about so many bytes."""
    make_workspace(workspace)
    folder = workspace / ".praxis-os" / "state" / "workflows"
    folder.mkdir(parents=True)
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(sessions):
        session = rules.start(
            f"{n:08x}-6a1c-4c59-9d0b-1f2e3d4c5b6a",
            workflow_type="test_generation_v3",
            target_file=f"src/file_{n}.py",
            first_phase=1,
            last_phase=6,
            options={"log": "x" * (size - 900)},
            now=begun + timedelta(seconds=n),
        )
        (folder / f"{session.session_id}.json").write_bytes(encode_snapshot(session))
    return workspace
