"""`pos_workflow` on real files: every action in every status, every error, and nothing leaks or gets out."""

import os
import re
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from mcpkeep.actors.workflow_tool import ANSWERED
from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.request import REQUESTS, action_of
from mcpkeep.protocol.workflow.session import Session, SessionError, Status
from mcpkeep.protocol.workflow.snapshot import encode_snapshot
from mcpkeep.supervisor.definitions import SHIPPED
from tests.workflows import PHASE_ONE, Answer, Tool, make_workflow, make_workspace, served

pytestmark = pytest.mark.anyio

T0 = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
DONE = {"done": True}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    workspace = make_workspace(tmp_path / "project")
    make_workflow(workspace, "two")
    return workspace


@pytest.fixture
async def tool(workspace: Path) -> AsyncGenerator[Tool]:
    async with served(workspace) as tool:
        yield tool


def state_file(workspace: Path, session_id: str) -> Path:
    return workspace / ".praxis-os" / "state" / "workflows" / f"{session_id}.json"


async def begin(tool: Tool, workflow: str = "two", target: str = "a.py") -> str:
    started = await tool(action="start", workflow_type=workflow, target_file=target)
    assert started["status"] == "success", started
    session_id: str = started["session_id"]
    return session_id


def without(answer: Answer, *names: str) -> Answer:
    return {name: value for name, value in answer.items() if name not in names}


# Whole answers


async def test_list_workflows_answers_all_members_by_name(tool: Tool) -> None:
    answer = await tool(action="list_workflows")
    assert (answer["status"], answer["action"], answer["count"]) == ("success", "list_workflows", 4)
    by_name = {workflow["workflow_type"]: workflow for workflow in answer["workflows"]}
    assert list(by_name) == ["praxis_os_upgrade_v1", "spec_creation_v1", "test_generation_v3", "two"]
    for workflow in by_name.values():
        assert {"name", "description", "version", "category", "phases", "estimated_duration"} <= set(workflow)
    assert by_name["test_generation_v3"]["phases"] == 6
    assert {"target_languages", "artifacts", "tags"} <= set(by_name["test_generation_v3"])


async def test_an_unknown_category_lists_nothing_and_names_the_known_ones(tool: Tool) -> None:
    answer = await tool(action="list_workflows", category="cooking")
    assert without(answer, "warning") == {
        "status": "success",
        "action": "list_workflows",
        "workflows": [],
        "count": 0,
    }
    assert "code_generation, documentation, general, maintenance" in answer["warning"]


async def test_start_answers_the_session_the_first_phase_and_the_overview(
    tool: Tool, workspace: Path
) -> None:
    answer = await tool(action="start", workflow_type="two", target_file="src/a b.py", options={"x": 1})
    assert UUID.fullmatch(answer["session_id"])
    assert without(answer, "session_id", "phase_content", "workflow_overview") == {
        "status": "success",
        "action": "start",
        "workflow_type": "two",
        "target_file": "src/a b.py",
        "current_phase": 1,
        "total_phases": 2,
    }
    assert answer["phase_content"] == {
        "phase_number": 1,
        "title": "Phase 1",
        "description": "do 1",
        "content": "# Phase 1\n\n### Task 1: Do it\n\n1. Begin\n2. End\n",
        "tasks": [{"task_number": 1, "title": "Do it"}],
        "evidence_schema": {
            "done": {"type": "boolean", "required": True, "description": "whether it is done"}
        },
        "gate_strict": True,
    }
    assert answer["workflow_overview"]["phases"] == [
        {"phase_number": 1, "title": "Phase 1", "description": "do 1"},
        {"phase_number": 2, "title": "Phase 2", "description": "do 2"},
    ]
    assert state_file(workspace, answer["session_id"]).exists()


async def test_start_never_reuses_a_session_and_names_the_unfinished_ones_of_the_same_work(
    tool: Tool,
) -> None:
    first = await begin(tool)
    await begin(tool, target="b.py")
    second = await tool(action="start", workflow_type="two", target_file="a.py")
    assert second["session_id"] != first
    assert [(s["session_id"], s["status"]) for s in second["existing_sessions"]] == [(first, "active")]


async def test_a_definition_that_asks_for_an_acknowledgment_says_so_at_the_start(
    tool: Tool, workspace: Path
) -> None:
    metadata = make_workflow(workspace, "asks") / "metadata.json"
    content = msgspec.json.decode(metadata.read_bytes(), type=dict[str, object])
    metadata.write_bytes(msgspec.json.encode({**content, "acknowledgment_required": True}))
    answer = await tool(action="start", workflow_type="asks", target_file="a.py")
    assert answer["acknowledgment_required"] is True
    assert "acknowledgment_required" not in await tool(
        action="start", workflow_type="two", target_file="a.py"
    )


async def test_a_workflow_that_counts_from_zero_starts_there(tool: Tool, workspace: Path) -> None:
    make_workflow(workspace, "zero", first=0)
    answer = await tool(action="start", workflow_type="zero", target_file="a.py")
    assert (answer["current_phase"], answer["total_phases"]) == (0, 2)


async def test_a_workflow_is_worked_through_and_each_answer_is_whole(tool: Tool) -> None:
    session_id = await begin(tool)
    head = {"status": "success", "action": "complete_phase", "session_id": session_id}
    passed = await tool(action="complete_phase", session_id=session_id, phase=1, evidence={**DONE, "more": 1})
    assert without(passed, "next_phase_content") == {
        **head,
        "checkpoint_passed": True,
        "phase_completed": 1,
        "evidence_accepted": ["done"],
        "next_phase": {"phase_number": 2, "title": "Phase 2", "description": "do 2"},
        "workflow_complete": False,
        "warnings": ["field 'more' is not in the gate's schema, and is not judged"],
    }
    assert passed["next_phase_content"]["phase_number"] == 2
    phase = await tool(action="get_phase", session_id=session_id)
    assert without(phase, "phase_content") == {
        "status": "success",
        "action": "get_phase",
        "session_id": session_id,
        "current_phase": 2,
        "total_phases": 2,
        "artifacts_from_previous_phases": {"phase_1": {"done": True, "more": 1}},
    }
    assert await tool(action="complete_phase", session_id=session_id, phase=2, evidence=DONE) == {
        **head,
        "checkpoint_passed": True,
        "phase_completed": 2,
        "evidence_accepted": ["done"],
        "next_phase": None,
        "next_phase_content": None,
        "workflow_complete": True,
    }
    state = await tool(action="get_state", session_id=session_id)
    assert TIME.fullmatch(state["created_at"]) and TIME.fullmatch(state["last_updated"])
    assert without(state, "created_at", "last_updated") == {
        "status": "success",
        "action": "get_state",
        "session_id": session_id,
        "workflow_type": "two",
        "target_file": "a.py",
        "current_phase": 2,
        "total_phases": 2,
        "completed_phases": [1, 2],
        "artifacts": {"phase_1": {"done": True, "more": 1}, "phase_2": {"done": True}},
        "session_status": "completed",
        "resume_capable": False,
        "options": {},
    }


async def test_a_refused_gate_says_what_is_missing_and_what_is_wrong_and_keeps_the_session_active(
    tool: Tool,
) -> None:
    session_id = await begin(tool)
    missing = await tool(action="complete_phase", session_id=session_id, phase=1, evidence={})
    assert missing == {
        "status": "error",
        "action": "complete_phase",
        "session_id": session_id,
        "error": "the gate of phase 1 refused the evidence: missing: done",
        "error_type": "ValidationError",
        "remediation": "submit, and call complete_phase again:\n- done (boolean): whether it is done",
        "checkpoint_passed": False,
        "phase": 1,
        "missing_evidence": ["done"],
        "validation_errors": [],
    }
    wrong = await tool(action="complete_phase", session_id=session_id, phase=1, evidence={"done": False})
    assert (wrong["missing_evidence"], wrong["validation_errors"]) == (
        [],
        ["validator 'yes_' refuses field 'done'"],
    )
    state = await tool(action="get_state", session_id=session_id)
    assert (state["session_status"], state["current_phase"], state["artifacts"]) == ("active", 1, {})
    errors = await tool(action="get_errors", session_id=session_id)
    assert without(errors, "errors", "last_error") == {
        "status": "success",
        "action": "get_errors",
        "session_id": session_id,
        "error_count": 2,
    }
    first, second = errors["errors"]
    assert without(first, "timestamp") == {
        "phase": 1,
        "error_type": "ValidationError",
        "message": missing["error"],
        "details": {"missing_evidence": ["done"], "validation_errors": []},
        "remediation": missing["remediation"],
    }
    assert errors["last_error"] == second["timestamp"] and TIME.fullmatch(second["timestamp"])


async def test_without_errors_there_is_no_last_one(tool: Tool) -> None:
    answer = await tool(action="get_errors", session_id=await begin(tool))
    assert (answer["errors"], answer["error_count"], answer["last_error"]) == ([], 0, None)


async def test_get_task_answers_the_task_with_its_steps(tool: Tool) -> None:
    session_id = await begin(tool)
    answer = await tool(action="get_task", session_id=session_id, phase=1, task_number=1)
    assert without(answer, "task_content") == {
        "status": "success",
        "action": "get_task",
        "session_id": session_id,
        "phase": 1,
        "task_number": 1,
    }
    content = answer["task_content"]
    assert content["title"] == "Do it" and content["artifacts_to_produce"] == []
    assert content["execution_steps"] == [
        {"step": 1, "description": "Begin"},
        {"step": 2, "description": "End"},
    ]


async def test_a_pause_and_its_end_are_told_and_remembered(tool: Tool) -> None:
    session_id = await begin(tool)
    paused = await tool(action="pause", session_id=session_id, checkpoint_note="for Ada")
    assert without(paused["checkpoint"], "timestamp") == {"phase": 1, "note": "for Ada"}
    assert without(paused, "checkpoint") == {
        "status": "success",
        "action": "pause",
        "session_id": session_id,
        "paused": True,
        "resume_capable": True,
    }
    assert (await tool(action="get_session", session_id=session_id))["session"][
        "checkpoint_note"
    ] == "for Ada"
    resumed = await tool(action="resume", session_id=session_id)
    assert resumed["resumed"] is True and resumed["current_phase"] == 1
    assert 0 <= resumed["paused_duration_seconds"] < 60
    assert resumed["phase_content"]["phase_number"] == 1


async def test_a_retry_counts_the_attempt_and_shows_what_went_wrong_before(tool: Tool) -> None:
    session_id = await begin(tool)
    await tool(action="complete_phase", session_id=session_id, phase=1, evidence={})
    answer = await tool(action="retry_phase", session_id=session_id, phase=1, reset_evidence=True)
    assert (answer["attempt"], answer["evidence_reset"], len(answer["previous_errors"])) == (2, True, 1)
    again = await tool(action="retry_phase", session_id=session_id, phase=1)
    assert (again["attempt"], again["evidence_reset"]) == (3, False)
    session = (await tool(action="get_session", session_id=session_id))["session"]
    assert [(run["attempt"], run["status"]) for run in session["phase_history"]] == [
        (1, "retried"),
        (2, "retried"),
        (3, "in_progress"),
    ]


async def test_a_rollback_names_the_artifacts_it_cleared(tool: Tool) -> None:
    session_id = await begin(tool)
    for phase in (1, 2):
        await tool(action="complete_phase", session_id=session_id, phase=phase, evidence=DONE)
    answer = await tool(action="rollback", session_id=session_id, to_phase=1)
    assert without(answer, "phase_content") == {
        "status": "success",
        "action": "rollback",
        "session_id": session_id,
        "rolled_back": True,
        "from_phase": 2,
        "to_phase": 1,
        "artifacts_cleared": ["phase_2"],
    }
    state = await tool(action="get_state", session_id=session_id)
    assert (state["session_status"], state["completed_phases"], state["artifacts"]) == (
        "active",
        [],
        {"phase_1": DONE},
    )


async def test_deleting_succeeds_twice_and_the_second_time_removes_nothing(tool: Tool) -> None:
    session_id = await begin(tool)
    gone = {"status": "success", "action": "delete_session", "session_id": session_id, "deleted": True}
    for removed, reason in ((True, "mistaken"), (False, None)):
        arguments = {"reason": reason} if reason else {}
        assert await tool(action="delete_session", session_id=session_id, **arguments) == {
            **gone,
            "cleanup": {"state_file_removed": removed, "artifacts_preserved": True},
            "reason": reason,
        }
    assert (await tool(action="get_state", session_id=session_id))["error_type"] == "NotFoundError"


async def test_lists_of_sessions_have_pages_and_a_count_of_all(tool: Tool) -> None:
    made = [await begin(tool, target=f"{n}.py") for n in range(5)]
    await tool(action="pause", session_id=made[0])
    page = await tool(action="list_sessions", limit=2, offset=1)
    assert ([s["target_file"] for s in page["sessions"]], page["count"]) == (["4.py", "3.py"], 5)
    paused = await tool(action="list_sessions", status="paused")
    assert paused["count"] == 1
    (one,) = paused["sessions"]
    assert without(one, "created_at", "last_updated") == {
        "session_id": made[0],
        "workflow_type": "two",
        "target_file": "0.py",
        "current_phase": 1,
        "total_phases": 2,
        "status": "paused",
    }
    assert (await tool(action="list_sessions", offset=10))["sessions"] == []


async def test_without_a_limit_the_newest_hundred_are_listed(tool: Tool, workspace: Path) -> None:
    folder = state_file(workspace, "x").parent
    folder.mkdir(parents=True)
    for n in range(103):
        session = at(Status.ACTIVE, n)
        (folder / f"{session.session_id}.json").write_bytes(encode_snapshot(session))
    answer = await tool(action="list_sessions")
    assert (len(answer["sessions"]), answer["count"]) == (100, 103)


# Every action in every status


def at(status: Status, n: int) -> Session:
    """A session of the workflow `two` in this status."""
    now = T0 + timedelta(seconds=n)
    session = rules.start(
        f"{n:08x}-6a1c-4c59-9d0b-1f2e3d4c5b6a",
        workflow_type="two",
        target_file="a.py",
        first_phase=1,
        last_phase=2,
        now=now,
    )
    error = SessionError(1, now, "ValidationError", "it failed")
    changes: dict[Status, Callable[[], Session]] = {
        Status.ACTIVE: lambda: session,
        Status.PAUSED: lambda: rules.pause(session, now=now),
        Status.COMPLETED: lambda: rules.pass_gate(
            rules.pass_gate(session, 1, evidence=DONE, now=now), 2, evidence=DONE, now=now
        ),
        Status.FAILED: lambda: rules.fail(session, error=error, now=now),
        Status.ROLLED_BACK: lambda: rules.undo(session, now=now),
    }
    return changes[status]()


ARGUMENTS: dict[str, dict[str, object]] = {
    "get_phase": {},
    "get_task": {"phase": 1, "task_number": 1},
    "complete_phase": {"phase": 1, "evidence": DONE},
    "get_state": {},
    "get_session": {},
    "delete_session": {},
    "pause": {},
    "resume": {},
    "retry_phase": {"phase": 1},
    "rollback": {"to_phase": 1},
    "get_errors": {},
}

ALLOWED: dict[str, set[Status]] = {
    **{action: set(Status) for action in ARGUMENTS},
    "complete_phase": {Status.ACTIVE},
    "pause": {Status.ACTIVE},
    "resume": {Status.PAUSED},
    "retry_phase": {Status.ACTIVE, Status.FAILED},
}


def test_the_table_answers_exactly_the_fourteen_actions() -> None:
    assert set(ANSWERED) == set(REQUESTS) and len(ANSWERED) == 14
    assert {action_of(kind) for kind in REQUESTS} == {*ARGUMENTS, "start", "list_workflows", "list_sessions"}


@pytest.mark.parametrize("status", Status)
async def test_every_action_in_every_status_is_done_or_refused_with_what_is_allowed(
    workspace: Path, status: Status
) -> None:
    folder = state_file(workspace, "x").parent
    folder.mkdir(parents=True)
    ids = {action: at(status, n) for n, action in enumerate(ARGUMENTS)}
    for session in ids.values():
        (folder / f"{session.session_id}.json").write_bytes(encode_snapshot(session))
    async with served(workspace) as tool:
        for action, arguments in ARGUMENTS.items():
            before = ids[action]
            answer = await tool(action=action, session_id=before.session_id, **arguments)
            assert (answer["action"], answer["session_id"]) == (action, before.session_id)
            if status in ALLOWED[action]:
                assert answer["status"] == "success", (action, answer)
                continue
            assert (answer["status"], answer["error_type"]) == ("error", "StateError")
            assert f"this one is {status}" in answer["error"]
            assert "rollback" in answer["remediation"]
            file = folder / f"{before.session_id}.json"
            assert file.read_bytes() == encode_snapshot(before)
        for action in ("list_sessions", "list_workflows"):
            assert (await tool(action=action))["status"] == "success"
        started = await tool(action="start", workflow_type="two", target_file="a.py")
        listed = {s["session_id"] for s in started.get("existing_sessions", ())}
        assert (ids["get_state"].session_id in listed) == (
            status in (Status.ACTIVE, Status.PAUSED, Status.FAILED)
        )


# What is refused, and how


@pytest.mark.parametrize(
    ("arguments", "error_type", "said", "remedy"),
    [
        ({"action": "nope"}, "ValueError", "unknown action: 'nope'", "use one of: complete_phase"),
        ({"action": "start", "target_file": "a"}, "ValueError", "start needs workflow_type", "call it as in"),
        ({"action": "pause", "sid": 1}, "ValueError", "unknown argument 'sid'", "known are"),
        (
            {"action": "start", "workflow_type": "too", "target_file": "a"},
            "NotFoundError",
            "no workflow is called 'too'; did you mean two",
            "list_workflows tells",
        ),
        (
            {"action": "start", "workflow_type": "../../x", "target_file": "a"},
            "NotFoundError",
            "no workflow is called '../../x'",
            "list_workflows tells",
        ),
        (
            {"action": "get_state", "session_id": "NOT-A-UUID"},
            "ValueError",
            "session_id 'NOT-A-UUID' is not a lower-case UUID",
            "use the session_id that start answered",
        ),
        (
            {"action": "get_state", "session_id": "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f"},
            "NotFoundError",
            "there is no session '3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f'",
            "did you mean one of: ",
        ),
        (
            {"action": "get_task", "session_id": "ID", "phase": 9, "task_number": 1},
            "NotFoundError",
            "two has no phase 9",
            "its phases are 1, 2",
        ),
        (
            {"action": "get_task", "session_id": "ID", "phase": 1, "task_number": 99},
            "NotFoundError",
            "phase 1 has no task 99",
            "its tasks are 1",
        ),
        (
            {"action": "complete_phase", "session_id": "ID", "phase": 2, "evidence": {}},
            "StateError",
            "complete_phase of phase 2 is not possible: the current phase is 1",
            "name the current phase",
        ),
        (
            {"action": "complete_phase", "session_id": "ID", "phase": 7, "evidence": {}},
            "NotFoundError",
            "two has no phase 7",
            "its phases are 1, 2",
        ),
        (
            {"action": "retry_phase", "session_id": "ID", "phase": 2},
            "StateError",
            "retry_phase of phase 2 is not possible: the current phase is 1",
            "name the current phase",
        ),
        (
            {"action": "rollback", "session_id": "ID", "to_phase": 2},
            "StateError",
            "rollback to phase 2 would go forward: the current phase is 1",
            "use complete_phase",
        ),
        (
            {"action": "rollback", "session_id": "ID", "to_phase": 0},
            "NotFoundError",
            "there is no phase 0: the phases are 1 to 2",
            "the current phase is 1",
        ),
        (
            {"action": "list_sessions", "status": "gone"},
            "ValueError",
            "status cannot be taken",
            "use one of: active, completed, failed, paused, rolled_back",
        ),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_what_to_do(
    tool: Tool, arguments: dict[str, object], error_type: str, said: str, remedy: str
) -> None:
    session_id = await begin(tool)
    if arguments.get("session_id") == "ID":
        arguments = {**arguments, "session_id": session_id}
    answer = await tool(**arguments)
    assert (answer["status"], answer["action"]) == ("error", arguments["action"])
    assert answer["error_type"] == error_type
    assert answer["error"].startswith(said)
    assert answer["remediation"].startswith(remedy)
    assert (await tool(action="list_sessions"))["count"] == 1


async def test_an_unknown_session_brings_the_recent_ones_up_to_five(tool: Tool) -> None:
    made = [await begin(tool, target=f"{n}.py") for n in range(7)]
    answer = await tool(action="pause", session_id="00000000-0000-4000-8000-000000000000")
    assert answer["remediation"] == f"did you mean one of: {', '.join(made[:1:-1])}"


def make_dynamic(workspace: Path) -> None:
    folder = workspace / ".praxis-os" / "workflows" / "spec_execution_v1"
    folder.mkdir()
    metadata = {
        "workflow_type": "spec_execution_v1",
        "total_phases": "dynamic",
        "dynamic_phases": True,
        "dynamic_config": {"source_path_key": "spec_path", "parser": "spec_tasks_parser"},
        "phases": [],
    }
    (folder / "metadata.json").write_bytes(msgspec.json.encode(metadata))


def make_spec(folder: Path) -> None:
    (folder / "spec").mkdir()
    (folder / "spec" / "tasks.md").write_text(
        "# Tasks\n\n## Phase 1: One\n\n- [ ] **Task 1.1**: First\n\n"
        "## Phase 2: Two\n\n- [ ] **Task 2.1**: Last\n"
    )


async def test_a_dynamic_workflow_without_its_option_is_refused_before_a_session_begins(
    tool: Tool, workspace: Path
) -> None:
    make_dynamic(workspace)
    answer = await tool(action="start", workflow_type="spec_execution_v1", target_file="a.py")
    assert answer["error_type"] == "ValueError" and "'spec_path'" in answer["error"]
    assert (await tool(action="list_sessions"))["count"] == 0
    make_spec(workspace)
    begun = await tool(
        action="start",
        workflow_type="spec_execution_v1",
        target_file="a.py",
        options={"spec_path": "spec"},
    )
    assert begun["status"] == "success", begun
    assert begun["total_phases"] == 2
    task = await tool(action="get_task", session_id=begun["session_id"], phase=2, task_number=1)
    assert task["task_content"]["title"] == "Last"


async def test_a_broken_phase_is_listed_and_told_and_the_others_can_be_worked_on(
    tool: Tool, workspace: Path
) -> None:
    file = "phases/2/gate-definition.yaml"
    gate = make_workflow(workspace, "broken") / file
    sound = gate.read_text()
    gate.write_text("checkpoint: [")
    listed = {w["workflow_type"]: w for w in (await tool(action="list_workflows"))["workflows"]}
    assert listed["broken"]["error"].startswith(f"{file}: is not YAML") and "error" not in listed["two"]
    begun = await tool(action="start", workflow_type="broken", target_file="a.py")
    assert begun["warnings"] == [listed["broken"]["error"]]
    call = {"action": "complete_phase", "session_id": begun["session_id"], "evidence": DONE}
    passed = await tool(**call, phase=1)
    assert passed["next_phase_content"]["warnings"] == begun["warnings"]
    refused = await tool(**call, phase=2)
    assert (refused["error_type"], refused["checkpoint_passed"]) == ("ValidationError", False)
    assert refused["validation_errors"] == [f"the gate of this phase cannot be read: {begun['warnings'][0]}"]
    assert refused["remediation"] == "mend that file; no restart is needed"
    assert str(workspace) not in str(refused)
    gate.write_text(sound)
    assert (await tool(**call, phase=2))["workflow_complete"] is True
    listed = {w["workflow_type"]: w for w in (await tool(action="list_workflows"))["workflows"]}
    assert "error" not in listed["broken"]


@pytest.mark.parametrize("file", ["gate-definition.yaml", "phase.md"])
async def test_a_workflow_whose_first_phase_is_broken_is_refused_with_its_file(
    tool: Tool, workspace: Path, file: str
) -> None:
    folder = make_workflow(workspace, "broken")
    (folder / "phases" / "1" / file).write_bytes(b"\xff")
    answer = await tool(action="start", workflow_type="broken", target_file="a.py")
    assert (answer["error_type"], answer["remediation"]) == (
        "ValueError",
        "mend that file; no restart is needed",
    )
    assert f"phases/1/{file}: is not UTF-8" in answer["error"] and str(workspace) not in answer["error"]
    assert (await tool(action="list_sessions"))["count"] == 0


async def test_a_session_whose_workflow_is_gone_can_be_read_paused_and_deleted(
    tool: Tool, workspace: Path
) -> None:
    folder = make_workflow(workspace, "short_lived")
    session_id = await begin(tool, "short_lived")
    folder.rename(workspace / "elsewhere")
    for action, arguments in (("get_phase", {}), ("complete_phase", {"phase": 1, "evidence": DONE})):
        answer = await tool(action=action, session_id=session_id, **arguments)
        assert answer["error_type"] == "NotFoundError" and "'short_lived'" in answer["error"]
    for action in ("get_state", "get_session", "get_errors", "pause", "delete_session"):
        assert (await tool(action=action, session_id=session_id))["status"] == "success"


def upstream_session(workspace: Path, workflow_type: str, target_file: str, **changes: object) -> str:
    """A file as prAxIs OS leaves it when `start` was given no options."""
    session_id = "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f"
    older = workspace / ".praxis-os" / ".cache" / "state" / f"{session_id}.json"
    older.parent.mkdir(parents=True)
    session: dict[str, object] = {
        "session_id": session_id,
        "workflow_type": workflow_type,
        "target_file": target_file,
        "current_phase": 1,
        "completed_phases": [],
        "phase_artifacts": {},
        "checkpoints": {},
        "created_at": "2025-10-08T09:36:10.734939",
        "updated_at": "2025-10-08T09:36:10.735033",
        "metadata": {},
    }
    older.write_bytes(msgspec.json.encode(session | changes))
    return session_id


async def test_a_session_that_does_not_know_its_phases_shows_those_of_its_workflow(workspace: Path) -> None:
    folder = make_workflow(workspace, "six", phases=6)
    session_id = upstream_session(workspace, "six", "a.py")
    async with served(workspace) as tool:
        state = await tool(action="get_state", session_id=session_id)
        session = (await tool(action="get_session", session_id=session_id))["session"]
        phase = await tool(action="get_phase", session_id=session_id)
        assert [found["total_phases"] for found in (state, session, phase)] == [6, 6, 6]
        folder.rename(workspace / "elsewhere")
        assert (await tool(action="get_state", session_id=session_id))["total_phases"] == 1


async def test_a_session_that_does_not_know_its_phases_shows_them_after_it_was_rolled_back(
    workspace: Path,
) -> None:
    make_workflow(workspace, "six", phases=6)
    session_id = upstream_session(workspace, "six", "a.py", current_phase=3, completed_phases=[1, 2])
    async with served(workspace) as tool:
        await tool(action="rollback", session_id=session_id, to_phase=2)
        state = await tool(action="get_state", session_id=session_id)
        phase = await tool(action="get_phase", session_id=session_id)
        assert [(found["current_phase"], found["total_phases"]) for found in (state, phase)] == [(2, 6)] * 2


async def test_a_session_on_a_spec_that_has_no_option_takes_its_target_for_the_spec(workspace: Path) -> None:
    make_dynamic(workspace)
    make_spec(workspace)
    session_id = upstream_session(workspace, "spec_execution_v1", "spec/")
    async with served(workspace) as tool:
        phase = await tool(action="get_phase", session_id=session_id)
        assert (phase["total_phases"], phase["phase_content"]["title"]) == (2, "One")
        done = await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE)
        assert done["next_phase"]["title"] == "Two"
        assert (await tool(action="get_state", session_id=session_id))["options"] == {}


@pytest.mark.parametrize(
    ("target", "metadata", "said"),
    [
        ("a.py", {}, "options: 'spec_path' is 'a.py', where there is no tasks.md"),
        ("../other/spec", {}, "options: 'spec_path' is '../other/spec', which leads out of the workspace"),
        ("link", {}, "options: 'spec_path' is 'link', which leads out of the workspace"),
        ("spec", {"spec_path": "gone"}, "options: 'spec_path' is 'gone', where there is no tasks.md"),
    ],
)
async def test_a_target_that_is_no_spec_of_the_workspace_is_not_taken_for_one(
    workspace: Path, target: str, metadata: dict[str, object], said: str
) -> None:
    make_dynamic(workspace)
    make_spec(workspace)
    outside = make_workspace(workspace.parent / "other")
    make_spec(outside)
    (workspace / "link").symlink_to(outside / "spec")
    session_id = upstream_session(workspace, "spec_execution_v1", target, metadata=metadata)
    async with served(workspace) as tool:
        for action, arguments in (("get_phase", {}), ("complete_phase", {"phase": 1, "evidence": DONE})):
            answer = await tool(action=action, session_id=session_id, **arguments)
            assert (answer["error_type"], answer["error"]) == ("ValueError", said)


async def test_an_edited_gate_counts_at_the_next_call(tool: Tool, workspace: Path) -> None:
    session_id = await begin(tool)
    gate = workspace / ".praxis-os/workflows/two/phases/1/gate-definition.yaml"
    gate.write_text("checkpoint: {strict: true}\nevidence_schema: {other: {type: string, required: true}}\n")
    refused = await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE)
    assert refused["missing_evidence"] == ["other"]
    gate.unlink()
    passed = await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE)
    assert passed["checkpoint_passed"] is True and "no gate" in passed["warning"]


async def test_a_bug_is_a_runtime_error_without_traceback_or_paths(workspace: Path) -> None:
    class Buggy:
        async def run(
            self, session: object, phase: int, evidence: object, report: object
        ) -> dict[str, object]:
            return {}

        async def undo(self, session: object, to_phase: int) -> None:
            raise ZeroDivisionError(f"in {workspace}")

        def holds(self, session: object) -> str | None:
            return None

    bugs: list[Exception] = []
    async with served(workspace, runners={"two": Buggy()}, bugs=bugs) as tool:
        answer = await tool(action="rollback", session_id=await begin(tool), to_phase=1)
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]
    assert answer == {
        "status": "error",
        "action": "rollback",
        "error": "mcpkeep failed at this call of 'pos_workflow': ZeroDivisionError",
        "error_type": "RuntimeError",
        "remediation": "This is a bug in mcpkeep; the details are in the log.",
    }


# Concurrency


async def test_of_two_who_edit_one_session_at_once_the_second_is_told_what_changed(tool: Tool) -> None:
    session_id = await begin(tool)
    answers: list[Answer] = []

    async def complete() -> None:
        answers.append(await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(complete)
    won = [answer for answer in answers if answer["status"] == "success"]
    lost = [answer for answer in answers if answer["status"] == "error"]
    assert (len(won), len(lost)) == (1, 7)
    assert {answer["error_type"] for answer in lost} == {"StateError"}
    assert all("current_phase 1 -> 2" in a["error"] or "the current phase is 2" in a["error"] for a in lost)
    assert any("another call changed the session first" in a["error"] for a in lost)


async def test_a_hundred_sessions_at_once_do_not_disturb_each_other(tool: Tool) -> None:
    done: list[Answer] = []

    async def work(n: int) -> None:
        session_id = await begin(tool, target=f"{n}.py")
        await tool(action="complete_phase", session_id=session_id, phase=1, evidence={**DONE, "n": n})
        await tool(action="pause", session_id=session_id)
        await tool(action="resume", session_id=session_id)
        await tool(action="complete_phase", session_id=session_id, phase=2, evidence=DONE)
        done.append(await tool(action="get_state", session_id=session_id))

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(work, n)
    assert {s["target_file"]: s["artifacts"]["phase_1"]["n"] for s in done} == {
        f"{n}.py": n for n in range(100)
    }
    assert {s["session_status"] for s in done} == {"completed"}


# Security


@pytest.mark.parametrize(
    "target",
    ["../x", "/etc/passwd", "a/../../x", "C:\\x", "..\\x", "a\0b", "", "\\\\host\\x"],
)
async def test_a_target_outside_the_workspace_is_refused_and_begins_nothing(tool: Tool, target: str) -> None:
    answer = await tool(action="start", workflow_type="two", target_file=target)
    assert answer["error_type"] == "ValueError" and answer["error"].startswith("target_file")
    assert (await tool(action="list_sessions"))["count"] == 0


async def test_a_link_out_of_the_workspace_is_refused_and_one_within_is_taken(
    tool: Tool, workspace: Path
) -> None:
    (workspace.parent / "secret").mkdir()
    (workspace / "out").symlink_to(workspace.parent / "secret")
    (workspace / "chain").symlink_to("out")
    (workspace / "src").mkdir()
    (workspace / "in").symlink_to("src")
    (workspace / "loop").symlink_to("loop")
    for target in ("out", "out/new.py", "chain/new.py"):
        answer = await tool(action="start", workflow_type="two", target_file=target)
        assert answer["error_type"] == "ValueError"
        assert answer["error"] == f"target_file {target!r} leads out of the workspace, by a link"
    for target in ("in/new.py", "loop", "new/deep/file.py", "secret"):
        assert (await tool(action="start", workflow_type="two", target_file=target))["status"] == "success"


async def test_a_workspace_that_is_itself_reached_by_a_link_is_no_way_out(workspace: Path) -> None:
    link = workspace.parent / "by-link"
    link.symlink_to(workspace)
    async with served(link) as tool:
        assert (await tool(action="start", workflow_type="two", target_file="a"))["status"] == "success"


async def test_a_neighbour_whose_name_begins_alike_is_outside(tool: Tool, workspace: Path) -> None:
    neighbour = workspace.parent / f"{workspace.name}-2"
    neighbour.mkdir()
    (workspace / "near").symlink_to(neighbour)
    answer = await tool(action="start", workflow_type="two", target_file="near/a.py")
    assert answer["error_type"] == "ValueError"


@pytest.mark.parametrize(
    "session_id",
    ["../../../etc/passwd", "x", "", "3E1C1D2A-7F0E-4A5B-8C9D-0A1B2C3D4E5F", "*", "a\0", "é" * 36, "-" * 36],
)
async def test_a_session_id_that_is_no_lower_case_uuid_reaches_no_file(
    tool: Tool, workspace: Path, session_id: str
) -> None:
    for action in ("get_state", "delete_session", "pause"):
        answer = await tool(action=action, session_id=session_id)
        assert answer["error_type"] == "ValueError"
    assert not (workspace / ".praxis-os" / "state").exists()


async def test_a_hostile_gate_runs_nothing_and_stops_nothing(tool: Tool, workspace: Path) -> None:
    proof = workspace / "proof"
    expressions = [
        f"lambda x: __import__('os').system('touch {proof}') == 0",
        f"lambda x: open('{proof}', 'w')",
        "lambda x: x.__class__.__mro__",
        "lambda x: 9 ** 9 ** 9",
        "lambda x: 'a' * 10 ** 9",
        "lambda x: [y for y in x]",
        "lambda x: eval('1')",
    ]
    for n, expression in enumerate(expressions):
        gate = (
            "checkpoint: {strict: true}\n"
            "evidence_schema: {done: {type: boolean, required: true, validator: v}}\n"
            f"validators: {{v: {msgspec.json.encode(expression).decode()}}}\n"
        )
        make_workflow(workspace, f"hostile_{n}", gate=gate)
        begun = await tool(action="start", workflow_type=f"hostile_{n}", target_file="a")
        if begun["status"] == "error":
            assert begun["error_type"] == "ValueError"
            continue
        answer = await tool(action="complete_phase", session_id=begun["session_id"], phase=1, evidence=DONE)
        assert answer["error_type"] == "ValidationError"
    assert not proof.exists()
    assert (await tool(action="start", workflow_type="two", target_file="a"))["status"] == "success"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metadata.json", b'{"a":' * 50_000),
        ("metadata.json", b'{"workflow_type": "bad", "phases": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("phases/1/gate-definition.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        ("phases/1/gate-definition.yaml", b"x: !!python/object/apply:os.system ['true']\n"),
        ("phases/1/gate-definition.yaml", b"[" * 20_000),
        ("phases/1/phase.md", b"> " * 20_000 + b"x"),
        ("phases/1/phase.md", b"\xff\xfe\x00"),
    ],
    ids=["deep-json", "deep-list", "billion-laughs", "yaml-object", "deep-yaml", "deep-markdown", "no-utf8"],
)
async def test_hostile_files_break_their_own_workflow_and_no_other(
    tool: Tool, workspace: Path, file: str, content: bytes
) -> None:
    folder = make_workflow(workspace, "bad")
    (folder / file).write_bytes(content)
    answer = await tool(action="start", workflow_type="bad", target_file="a")
    assert answer["error_type"] == "ValueError"
    assert "Traceback" not in answer["error"] and str(workspace) not in answer["error"]
    assert (await tool(action="start", workflow_type="two", target_file="a"))["status"] == "success"


async def test_a_workflow_that_is_a_link_out_of_the_workspace_is_not_read(
    tool: Tool, workspace: Path
) -> None:
    outside = make_workflow(make_workspace(workspace.parent / "other"), "outside")
    (workspace / ".praxis-os" / "workflows" / "outside").symlink_to(outside)
    answer = await tool(action="start", workflow_type="outside", target_file="a")
    assert answer["status"] == "error" and str(outside) not in answer["error"]


async def test_ten_megabytes_of_evidence_are_kept_and_more_are_refused_without_a_trace(
    tool: Tool, workspace: Path
) -> None:
    session_id = await begin(tool)
    call = {"action": "complete_phase", "session_id": session_id, "phase": 1}
    answer = await tool(**call, evidence={**DONE, "log": "x" * (11 * 2**20)})
    assert answer["error_type"] == "ValueError" and "too large" in answer["error"]
    assert state_file(workspace, session_id).stat().st_size < 10_000
    assert (await tool(**call, evidence={**DONE, "log": "x" * (9 * 2**20)}))["status"] == "success"
    assert state_file(workspace, session_id).stat().st_size > 9 * 2**20


async def test_evidence_is_kept_to_the_letter_whatever_is_in_it(tool: Tool) -> None:
    session_id = await begin(tool)
    evidence = {**DONE, "q": '"\\\n\t\u2028', "n": 2**70, "f": 1e-300, "é": [None, {"": []}], "__proto__": 1}
    await tool(action="complete_phase", session_id=session_id, phase=1, evidence=evidence)
    state = await tool(action="get_state", session_id=session_id)
    assert state["artifacts"] == {"phase_1": evidence}


async def test_state_files_are_for_their_owner_only(tool: Tool, workspace: Path) -> None:
    file = state_file(workspace, await begin(tool))
    assert file.stat().st_mode & 0o077 == 0


async def test_a_workspace_that_was_moved_before_the_first_call_is_told_and_not_made_anew(
    workspace: Path,
) -> None:
    state = workspace / ".praxis-os" / ".mcpkeep"
    async with served(workspace, state=state) as tool:
        os.rename(workspace, workspace.with_name("away"))
        listed = await tool(action="list_sessions")
        assert (listed["sessions"], listed["warnings"]) == (
            [],
            ["the workspace was moved or removed since mcpkeep started"],
        )
        refused = await tool(action="start", workflow_type="test_gen_v3", target_file="a.py")
        assert refused["error_type"] == "StorageError"
        assert refused["error"].endswith("the workspace was moved or removed since mcpkeep started")
        assert os.listdir(workspace.parent) == ["away"]
        os.rename(workspace.with_name("away"), workspace)
        state_file(workspace, await begin(tool)).read_bytes()


async def test_no_answer_names_a_place_outside_the_workspace(tool: Tool, workspace: Path) -> None:
    folder = workspace / ".praxis-os" / "state"
    session_id = await begin(tool)
    (folder / "workflows").rename(folder / "away")
    (folder / "workflows").write_text("a file")
    answer = await tool(action="pause", session_id=session_id)
    assert answer["error_type"] == "StorageError"
    for text in (answer["error"], answer["remediation"]):
        assert str(workspace.parent) not in text and str(SHIPPED) not in text


async def test_a_session_of_the_shipped_workflow_is_strict(tool: Tool) -> None:
    session_id = await begin(tool, "test_gen_v3")
    empty: list[Answer] = [{"nonsense": 1}, {"code_structure": {}, "test_candidates": []}, {"override": {}}]
    for evidence in empty:
        answer = await tool(action="complete_phase", session_id=session_id, phase=1, evidence=evidence)
        assert answer["checkpoint_passed"] is False
    answer = await tool(action="complete_phase", session_id=session_id, phase=1, evidence=PHASE_ONE)
    assert answer["checkpoint_passed"] is True
