"""Round trips, throughput and memory under large messages, side by side: direct, pump, mcpkeep, peers."""

import gc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import msgspec
import psutil

from tests.benchmarks.figures import Table, growth, percentile, slope
from tests.benchmarks.line import Line, call, decode_answer, mcpkeep_command
from tests.servers import fast_command

__all__ = ["PATHS", "SIZES", "Timing", "measure_memory", "measure_traffic", "memory_table", "traffic_table"]

SIZES = {"100 B": 100, "10 kB": 10_000, "1 MB": 1_000_000}
SEQUENTIAL = {"100 B": 2_000, "10 kB": 1_000, "1 MB": 40}
"""Calls one after the other in each round; so many that a round takes about as long for each size."""
STREAMED = {"100 B": 6_400, "10 kB": 3_200, "1 MB": 192}
WINDOW = 64

PATHS: Mapping[str, list[str]] = {
    "direct": fast_command(),
    "pump": [sys.executable, "-I", "-S", str(Path(__file__).with_name("pump.py")), *fast_command()],
    "mcpkeep": mcpkeep_command(fast_command()),
}


class Timing(msgspec.Struct):
    """What one path took for one size: seconds per call one after the other, calls per second in flight."""

    seconds: list[float] = []
    rates: list[float] = []

    def p(self, share: float) -> float:
        return percentile(self.seconds, share)

    @property
    def rate(self) -> float:
        return percentile(self.rates, 0.5)


def measure_traffic(
    paths: Mapping[str, Sequence[str]],
    *,
    cwd: Path,
    rounds: int,
    sizes: Mapping[str, int] = SIZES,
    share: float = 1,
) -> dict[str, dict[str, Timing]]:
    """Timings by size and path. The paths take turns in each round, so that noise hits them alike.

    Args:
        share: what part of the usual number of calls to make; 1 for figures, less for a glance.
    """
    timings = {size: {name: Timing() for name in paths} for size in sizes}
    lines = {name: Line(command, cwd=cwd) for name, command in paths.items()}
    try:
        for line in lines.values():
            line.initialize()
        for size, length in sizes.items():
            sequential, streamed = (max(4, int(many[size] * share)) for many in (SEQUENTIAL, STREAMED))
            frames = [call(n + 1, "echo", {"text": "x" * length}) for n in range(sequential)]
            flood = [call(n + 1, "echo", {"text": "x" * length}) for n in range(streamed)]
            for name, line in lines.items():
                warm_up(line, frames, name)
            for _ in range(rounds):
                for name, line in lines.items():
                    timings[size][name].seconds += time_each(line, frames)
                for name, line in lines.items():
                    timings[size][name].rates.append(len(flood) / line.stream(flood, window=WINDOW))
    finally:
        for line in lines.values():
            line.close()
    return timings


def warm_up(line: Line, frames: Sequence[bytes], name: str) -> None:
    for frame in frames[: max(2, len(frames) // 10)]:
        answer, asked = decode_answer(line.exchange(frame)), decode_answer(frame)
        if answer.id != asked.id or answer.error:
            raise AssertionError(f"{name} answered {answer!r} to request {asked.id!r}")


def time_each(line: Line, frames: Sequence[bytes]) -> list[float]:
    seconds: list[float] = []
    gc.collect()
    gc.disable()
    try:
        for frame in frames:
            start = perf_counter()
            line.exchange(frame)
            seconds.append(perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def traffic_table(timings: Mapping[str, Mapping[str, Timing]]) -> Table:
    """One row for each size and path, with what the path adds to the direct one and the ratio to the pump."""
    rows: list[tuple[str, ...]] = []
    for size, by_path in timings.items():
        direct, pump = by_path["direct"], by_path["pump"]
        for name, timing in by_path.items():
            added = timing.p(0.5) - direct.p(0.5)
            pump_added = pump.p(0.5) - direct.p(0.5)
            rows.append(
                (
                    f"{size} {name}",
                    *(f"{timing.p(share) * 1e6:,.0f}" for share in (0.5, 0.95, 0.99)),
                    "" if timing is direct else f"{added * 1e6:,.0f}",
                    "" if timing is direct or pump_added <= 0 else f"{added / pump_added:.2f}",
                    "" if timing is direct else f"{timing.p(0.99) / pump.p(0.99):.2f}",
                    f"{timing.rate:,.0f}",
                    f"{timing.rate / direct.rate:.2f}",
                    "" if timing is direct else f"{timing.rate / pump.rate:.2f}",
                    verdict(size, timing, by_path) if name == "mcpkeep" else "",
                )
            )
    return Table(
        "Round trips one after the other (us), and calls per second with 64 in flight",
        (
            *("", "p50", "p95", "p99", "added p50", "added/pump", "p99/pump"),
            *("calls/s", "/direct", "/pump", "reach"),
        ),
        tuple(rows),
        (
            "added = p50 minus that of the direct connection. To reach: up to 10 kB, added p50 at most the "
            "pump's and p99 at most 1.2 of its; calls/s of 100 B not below the pump; 1 MB at most 1.3 of the "
            "pump's time.",
        ),
    )


def verdict(size: str, timing: Timing, by_path: Mapping[str, Timing]) -> str:
    pump = by_path["pump"]
    if size == "1 MB":
        met = timing.p(0.5) <= 1.3 * pump.p(0.5) and timing.rate * 1.3 >= pump.rate
    else:
        met = timing.p(0.5) <= pump.p(0.5) and timing.p(0.99) <= 1.2 * pump.p(0.99)
        met = met and (size != "100 B" or timing.rate >= pump.rate)
    return "met" if met else "MISSED"


def measure_memory(command: Sequence[str], *, cwd: Path, messages: int) -> list[int]:
    """The resident bytes of the relaying process after each ten messages of 1 MB there and back."""
    line = Line(command, cwd=cwd)
    try:
        line.initialize()
        process = psutil.Process(line.process.pid)
        frame = call(1, "echo", {"text": "x" * SIZES["1 MB"]})
        series: list[int] = []
        for number in range(messages):
            line.exchange(frame)
            if number % 10 == 9:
                series.append(process.memory_info().rss)
        return series
    finally:
        line.close()


def memory_table(series: Sequence[int], messages: int) -> Table:
    """How the memory went; flat is less than 1 MiB of growth, a 1,000th of what was relayed."""
    grown = growth(series)
    cells = [
        *(f"{value / 2**20:.1f}" for value in (series[0], series[len(series) // 2], series[-1], max(series))),
        f"{slope(series[len(series) // 2 :]) / 10 / 1024:+.2f}",
        f"{grown / 2**20:+.2f}",
        "met" if grown < 2**20 else "MISSED",
    ]
    return Table(
        f"Resident memory of mcpkeep over {messages:,} messages of 1 MB there and back (MiB)",
        ("", "first", "middle", "last", "most", "slope kiB/message", "growth", "reach"),
        (("mcpkeep", *cells),),
        ("slope over the second half; growth = median of the last quarter minus that of the second",),
    )
