"""`mcpkeep workflow` from a terminal: alone, and beside a running mcpkeep."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.benchmarks.line import Line, call, decode_answer, environment, mcpkeep_command
from tests.servers import fast_command
from tests.workflows import make_workflow, make_workspace

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    workspace = make_workspace(tmp_path / "project")
    make_workflow(workspace, "two")
    return workspace


@pytest.fixture
def run(workspace: Path) -> Run:
    def run(*words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "mcpkeep.supervisor", "workflow", *words],
            cwd=cwd or workspace,
            env=environment() | {"XDG_STATE_HOME": str(workspace / "user-state"), "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def answer_of(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.json.decode(done.stdout)
    return answer


def test_a_workflow_is_worked_through_in_a_terminal(run: Run, workspace: Path) -> None:
    started = run("start", "workflow_type=two", "target_file=a b.py", "--json")
    assert (started.returncode, started.stderr) == (0, "")
    session_id = answer_of(started)["session_id"]
    refused = run("complete_phase", f"session_id={session_id}", "phase=1", "evidence={}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        "ValidationError: the gate of phase 1 refused the evidence: missing: done"
    )
    (workspace / "evidence.json").write_text('{"done": true}')
    passed = run("complete_phase", f"session_id={session_id}", "phase=1", "evidence=@evidence.json")
    assert passed.returncode == 0 and "next_phase_content" in passed.stdout
    done = run("complete_phase", f"session_id={session_id}", "phase=2", 'evidence={"done": true}', "--json")
    assert answer_of(done)["workflow_complete"] is True
    table = run("list_sessions", "status=completed").stdout
    assert session_id in table and "a b.py" in table


@pytest.mark.parametrize("columns", ["60", "80", "110", "200"])
def test_no_word_of_a_list_is_broken_in_a_narrow_terminal(workspace: Path, columns: str) -> None:
    script = """
from rich import console
from mcpkeep.supervisor import terminal_tables
class Narrow(console.Console):
    is_terminal = True
terminal_tables.Console = Narrow
terminal_tables.show({"sessions": [{"session_id": "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f", "status": "active",
    "workflow_type": "spec_creation_v1", "target_file": "src/app.py", "current_phase": 1,
    "last_updated": "2026-01-31T10:15:00Z"}]})
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment() | {"COLUMNS": columns, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for word in (
        "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f",
        "active",
        "src/app.py",
        "2026-01-31 10:15:00",
        "current",
    ):
        assert word in done.stdout, done.stdout
    lines = re.sub("\x1b\\[[0-9;]*m", "", done.stdout).splitlines()
    assert max(map(len, lines)) <= int(columns)


def test_lists_phases_and_tasks_are_readable(run: Run) -> None:
    workflows = run("list_workflows")
    assert "test_generation_v3" in workflows.stdout and "two" in workflows.stdout
    session_id = answer_of(run("start", "workflow_type=two", "target_file=a.py", "--json"))["session_id"]
    phase = run("get_phase", f"session_id={session_id}").stdout
    assert "Phase 1" in phase and "Do it" in phase
    assert "Begin" in run("get_task", f"session_id={session_id}", "phase=1", "task_number=1").stdout
    assert "in_progress" in run("get_session", f"session_id={session_id}").stdout
    assert run("get_errors", f"session_id={session_id}").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "usage: mcpkeep workflow ACTION"),
        (("strat",), 2, "unknown action 'strat'; did you mean 'start'?"),
        (("pause",), 2, "ValueError: pause needs session_id"),
        (("pause", "x"), 2, "'x' is not key=value; pause takes session_id= [checkpoint_note=]"),
        (("pause", "reason=x"), 2, "pause takes no 'reason'; it takes session_id= [checkpoint_note=]"),
        (("rollback", "to_phase=one"), 2, "to_phase=one is not JSON"),
        (("start", "options=@nowhere.json"), 2, "options: nowhere.json cannot be read"),
        (("list_sessions", "--workspace"), 2, "--workspace needs a value"),
        (("list_sessions", "--workspace=/nowhere"), 2, "--workspace is '/nowhere', which is no folder"),
        (("get_state", "session_id=x"), 2, "ValueError: session_id 'x' is not a lower-case UUID"),
        (
            ("get_state", "session_id=3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f"),
            1,
            "NotFoundError: there is no session",
        ),
        (
            ("start", "workflow_type=three", "target_file=a"),
            1,
            "NotFoundError: no workflow is called 'three'",
        ),
    ],
)
def test_a_wrong_call_or_a_refusal_says_so_on_stderr(
    run: Run, words: tuple[str, ...], code: int, said: str
) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_the_help_names_every_action_with_what_it_takes(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "complete_phase" in done.stdout and "session_id= phase= evidence=" in done.stdout


def test_another_workspace_can_be_named(run: Run, workspace: Path, tmp_path: Path) -> None:
    session_id = answer_of(run("start", "workflow_type=two", "target_file=a", "--json"))["session_id"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    listed = run("list_sessions", "--workspace", str(workspace), "--json", cwd=elsewhere)
    assert [s["session_id"] for s in answer_of(listed)["sessions"]] == [session_id]


def test_beside_a_running_mcpkeep_it_reads_and_is_told_who_writes(run: Run, workspace: Path) -> None:
    line = Line(mcpkeep_command(fast_command()), cwd=workspace)
    try:
        line.initialize()
        start = {"action": "start", "workflow_type": "two", "target_file": "a.py"}
        result = msgspec.json.decode(decode_answer(line.exchange(call(2, "pos_workflow", start))).result)
        session_id = result["structuredContent"]["session_id"]
        assert answer_of(run("get_state", f"session_id={session_id}", "--json"))["session_status"] == "active"
        refused = run("pause", f"session_id={session_id}")
        assert refused.returncode == 1
        assert f"StateError: the sessions of this workspace are being changed by pid {line.process.pid}" in (
            " ".join(refused.stderr.split())
        )
    finally:
        line.close()
    assert run("pause", f"session_id={session_id}").returncode == 0


def test_rich_is_imported_for_tables_only(workspace: Path) -> None:
    script = (
        "import sys\n"
        "from mcpkeep.supervisor import app\n"
        "app.main(['workflow', 'list_sessions', '--json'])\n"
        "assert not {'rich', 'yaml', 'markdown_it', 'simpleeval'} & set(sys.modules), sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, cwd=workspace
    )
    assert done.returncode == 0, done.stderr
