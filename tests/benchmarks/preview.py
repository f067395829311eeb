"""What a preview costs: phase 0 and the plan of 348 files, 2.5 MB, after 400 commits.

Run: python -m tests.benchmarks.preview
"""

import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from mcpkeep.protocol.upgrade.places import PARTS
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.planner import make_plan
from mcpkeep.supervisor.upgrade.source import inspect_source
from tests.repositories import Tree, install, make_source

FILES, SIZE, COMMITS, CHANGES, ROUNDS = 348, 7_200, 400, 8, 15


def main() -> None:
    chance = random.Random(1)
    tree: dict[str, str] = {}
    for number in range(FILES):
        root = ("universal/standards", "universal/workflows", "universal/workflows", "mcp_server", "scripts")[
            number % 5
        ]
        lines = [f"line {place} of file {number}: {chance.random()}\n" for place in range(SIZE // 46)]
        tree[f"{root}/folder{number % 23}/file{number}.md"] = "".join(lines)
    versions: list[Tree] = []
    for number in range(COMMITS):
        tree = dict(tree)
        for path in chance.sample(sorted(tree), CHANGES):
            tree[path] = tree[path].replace("line 10", f"line 10 ({number})", 1)
        versions.append(tree)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_source(folder / "source", *versions)
        base = folder / "workspace" / ".praxis-os"
        install(versions[-60], base)
        for file in sorted(base.rglob("*.md"))[::30]:
            file.write_text(file.read_text() + "mine\n")
        cache = Cache(folder / "cache")
        times: list[tuple[float, float]] = []
        plan = None
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            facts = inspect_source(
                str(folder / "source"), require_signed=False, workspace=folder / "workspace", cache=cache
            )
            between = time.perf_counter()
            plan = make_plan(
                facts,
                [part.installed for part in PARTS],
                Layout(folder / "workspace", base),
                cache=cache,
                plan_id="p",
                made_at=datetime.now(UTC),
            )
            times.append((between - start, time.perf_counter() - between))
        print(plan and plan.counts())
        for label, rows in (("cold", times[:1]), ("warm", times[1:])):
            inspected, planned = (statistics.median(column) * 1000 for column in zip(*rows, strict=True))
            print(
                f"{label}: inspect {inspected:.0f} ms, plan {planned:.0f} ms, "
                f"together {inspected + planned:.0f} ms"
            )


if __name__ == "__main__":
    main()
