"""The demo runs the real thing, says what it lacks, and leaves nothing behind."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from mcpkeep.supervisor.demo_screen import Call, Event, Screen
from tests.benchmarks.line import environment

WITHOUT_MCP = """
import sys
sys.modules["mcp"] = None
from mcpkeep.supervisor.demo import main
sys.exit(main(sys.argv[1:]))
"""


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment(), timeout=120
    )


@pytest.mark.parametrize("words", [[], ["upgrade"]])
def test_without_the_extra_it_says_which_pip_command_to_run(words: list[str]) -> None:
    done = run("-c", WITHOUT_MCP, *words)
    name = " ".join(["mcpkeep demo", *words])
    expected = f"{name} needs mcp: run `{sys.executable} -m pip install 'mcpkeep[demo]'`\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_an_event_counts_its_calls_by_outcome() -> None:
    calls = [Call(1.0, 1.5, "answered", 7), Call(1.1, 1.2, "failed", None, "why"), Call(1.1, 3.1, "lost")]
    event = Event("kill -9", 1.0, calls=calls)
    counted = [event.count("answered"), event.count("failed"), event.count("lost")]
    assert (counted, event.first_error, event.longest) == ([1, 1, 1], "why", 2.0)


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("pid", [21480, 4194303])
def test_only_the_bars_give_way_where_the_terminal_is_narrow(width: int, pid: int) -> None:
    shown = io.StringIO()
    calls = [Call(0.1 * n, 0.1 * n + 0.035, "answered", pid) for n in range(40)]
    event = Event("phase 4: Post-Upgrade Validation", 0.0, pid=pid, took=12.34, calls=calls)
    console = Console(file=shown, width=width)
    with Screen(console, [event], "", quiet=False, subject="the upgrade", timed=True):
        pass
    heads, _, row = (line for line in shown.getvalue().splitlines() if line.strip())
    assert heads.split()[:7] == ["the", "upgrade", "pid", "calls", "took", "errors", "slowest"]
    assert row.split()[:-1] == [*event.name.split(), str(pid), "40", "12.34", "s", "0", "35", "ms"]
    assert 3 <= len(row.split()[-1]) <= 15 and set(row.split()[-1]) == {"▂"}
    assert max(map(len, (heads, row))) <= width


@pytest.mark.slow
def test_the_demo_keeps_every_promise_it_shows() -> None:
    done = run("-m", "mcpkeep.supervisor", "demo", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [event["event"] for event in figures["events"]] == [
        *("start", "kill -9", "kill -9 again"),
        "restart, overlap",
    ]
    assert (figures["broken_promises"], figures["left_running"]) == ([], [])


@pytest.mark.slow
def test_the_demo_of_an_upgrade_keeps_every_promise_it_shows() -> None:
    done = run("-m", "mcpkeep.supervisor", "demo", "upgrade", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    names = [event["event"] for event in figures["events"]]
    assert [name for name in names if not name.startswith("phase")] == [
        *("v1.1.0 serves", "v2.0.0 serves", "SIGUSR1: back to v1.1.0"),
    ]
    assert len(names) == 9
    assert [event["failed"] + event["never_answered"] for event in figures["events"]] == [0] * 9
    assert (figures["broken_promises"], figures["left_running"]) == ([], [])
