"""`python -m tests.benchmarks`: measure mcpkeep beside the direct connection and a blind pump.

--quick         a glance of about a minute instead of figures
--peers PYTHON  fastmcp's create_proxy and mcp-proxy too, where that interpreter has them; may be repeated
--only NAME     one of traffic, memory, start, idle, gap, overlap, workflow, backup, upgrade, soak; repeatable
--soak N        only the soak, with that many SIGKILLs (`--only soak` makes 10,000, with --quick 200)
--json FILE     write the tables there as well
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.benchmarks.backup import backup_table
from tests.benchmarks.figures import Table, show
from tests.benchmarks.life import gap_table, idle_table, overlap_table, start_table
from tests.benchmarks.line import mcpkeep_command
from tests.benchmarks.peers import peers
from tests.benchmarks.soak import run_soak, soak_table
from tests.benchmarks.traffic import PATHS, measure_memory, measure_traffic, memory_table, traffic_table
from tests.benchmarks.upgrade import upgrade_scale_table, upgrade_table
from tests.benchmarks.workflow import workflow_calls_table, workflow_scale_table
from tests.bytecode import compile_mcpkeep
from tests.servers import fast_command

BENCHMARKS = ("traffic", "memory", "start", "idle", "gap", "overlap", "workflow", "backup", "upgrade", "soak")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peers", action="append", metavar="PYTHON", help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help=argparse.SUPPRESS)
    parser.add_argument("--soak", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    quick: bool = options.quick
    kills: int = options.soak or (200 if quick else 10_000)
    wanted: list[str] = options.only or [name for name in BENCHMARKS if name != "soak"]
    if options.soak is not None:
        wanted = ["soak"]
    others, reasons = peers(options.peers) if options.peers else ({}, [])
    paths = {**PATHS, **others}
    for reason in reasons:
        print(reason, file=sys.stderr)

    compile_mcpkeep()
    with TemporaryDirectory(prefix="mcpkeep-benchmark-") as folder:
        cwd = Path(folder)
        rounds, share = (2, 0.2) if quick else (7, 1.0)
        messages = 200 if quick else 1_000
        measures: dict[str, Callable[[], Table]] = {
            "traffic": lambda: traffic_table(measure_traffic(paths, cwd=cwd, rounds=rounds, share=share)),
            "memory": lambda: memory_table(
                measure_memory(mcpkeep_command(fast_command()), cwd=cwd, messages=messages), messages
            ),
            "start": lambda: start_table(paths, cwd=cwd, runs=5 if quick else 30),
            "idle": lambda: idle_table(cwd=cwd, seconds=5 if quick else 30),
            "gap": lambda: gap_table(cwd=cwd, kills=5 if quick else 50),
            "overlap": lambda: overlap_table(cwd=cwd, restarts=3 if quick else 20),
            "workflow": lambda: workflow_calls_table(rounds=100 if quick else 1_000),
            "workflow sessions": lambda: workflow_scale_table(sessions=10_000, rounds=20 if quick else 200),
            "backup": lambda: backup_table(rounds=5 if quick else 15, large=not quick),
            "upgrade": lambda: upgrade_table(rounds=2 if quick else 7),
            "upgrade scale": upgrade_scale_table,
            "soak": lambda: soak_table(run_soak(cwd=cwd, kills=kills, say=print)),
        }
        tables: list[Table] = []
        for name, measure in measures.items():
            if name.split()[0] in wanted and not (quick and name == "upgrade scale"):
                tables.append(measure())
                show(tables[-1])
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(tables)))
    return 1 if any("MISSED" in row for table in tables for row in table.rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
