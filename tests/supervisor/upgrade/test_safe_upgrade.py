"""The source's own dry run: on copies, bounded, and never a reason to fail."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.plan import Plan
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.planner import make_plan
from mcpkeep.supervisor.upgrade.safe_upgrade import compare_with_safe_upgrade
from tests.repositories import install, make_source

SCRIPT = "scripts/safe-upgrade.py"
MANIFEST = {"universal/.universal-manifest.json": '{"files": {}}'}
COUNTS = """
import os, sys
source, target = sys.argv[2], sys.argv[4]
assert sys.argv[5:] == ["--dry-run"] and not sys.stdin.read()
assert os.path.exists(source + "/universal/.universal-manifest.json")
assert open(source + "/universal/standards/x").read() == "new\\n"
open(target + "/standards/universal/x", "a").write("spoilt")
print("Analysis Summary")
print("New files: 7")
print("Unchanged:", os.environ.get("SECRET", 3))
"""


def compare(
    tmp: Path, script: str | None, *, manifest: bool = True, limit: float = 30.0, python: str = sys.executable
) -> tuple[str, ...]:
    old = {"universal/standards/x": "old\n"}
    files = {"universal/standards/x": "new\n", **(MANIFEST if manifest else {})}
    if script is not None:
        files[SCRIPT] = script
    (tmp / "source").parent.mkdir(exist_ok=True)
    commits = make_source(tmp / "source", old, files)
    base = tmp / "workspace" / ".praxis-os"
    install(old, base)
    plan: Plan = make_plan(
        SourceFacts(str(tmp / "source"), commit=commits[1], version="1"),
        ["standards/universal", "workflows"],
        Layout(tmp / "workspace", base),
        cache=Cache(None),
        plan_id="p",
        made_at=datetime(2026, 1, 31, tzinfo=UTC),
    )
    said = compare_with_safe_upgrade(plan, base, python=python, cache=Cache(None), limit=limit)
    assert (base / "standards/universal/x").read_text() == "old\n"
    return said


def test_what_it_counts_otherwise_is_told_and_it_never_sees_the_live_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert compare(tmp_path, COUNTS) == (
        "safe-upgrade.py counts 7 new files, the plan 0",
        "safe-upgrade.py counts 3 unchanged, the plan 1",
    )


def test_a_source_without_the_script_says_nothing(tmp_path: Path) -> None:
    assert compare(tmp_path, None) == ()


def test_its_failure_is_a_line(tmp_path: Path) -> None:
    (line,) = compare(tmp_path, "raise EOFError('no terminal')")
    assert line == "safe-upgrade.py gave no summary of its dry run; it said last: 'EOFError: no terminal'"


def test_a_missing_manifest_is_a_line(tmp_path: Path) -> None:
    (line,) = compare(tmp_path, COUNTS, manifest=False)
    assert line == "safe-upgrade.py could not be tried: the source has no .universal-manifest.json"


def test_a_script_that_hangs_is_ended_and_a_line(tmp_path: Path) -> None:
    (line,) = compare(tmp_path, "import time\ntime.sleep(1000)", limit=0.2)
    assert line == "safe-upgrade.py could not be tried: it took longer than 0.2 s"


def test_a_script_that_never_stops_talking_is_ended(tmp_path: Path) -> None:
    (line,) = compare(tmp_path, "while True: print('x' * 1000)")
    assert line.startswith("safe-upgrade.py gave no summary")


def test_a_python_that_is_gone_is_a_line(tmp_path: Path) -> None:
    (line,) = compare(tmp_path, COUNTS, python=str(tmp_path / "gone"))
    assert line == "safe-upgrade.py could not be tried: no such file or directory"
