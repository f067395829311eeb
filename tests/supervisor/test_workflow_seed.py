"""The validation snippets that `pos_workflow` was specified with; real evidence stands for `{...}`.

Each runs twice: on the tool itself, and through the official client on `mcpkeep run`.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcpkeep.protocol.workflow.refusal import InvalidArgument
from mcpkeep.protocol.workflow.request import REQUESTS, Kinds, check_target_file, parse_request
from tests.workflows import PHASE_ONE, Answer, Tool, connected, make_workspace, served, tool_of

Called = Callable[..., Answer]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("seed") / "workspace")


@asynccontextmanager
async def through_client(workspace: Path) -> AsyncGenerator[Tool]:
    async with connected(workspace) as client:
        yield tool_of(client)


@pytest.fixture(scope="module", params=[served, through_client], ids=["tool", "client"])
def pos_workflow(request: pytest.FixtureRequest, workspace: Path) -> Iterator[Called]:
    way: Callable[[Path], AbstractAsyncContextManager[Tool]] = request.param
    portal: BlockingPortal
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(way(workspace)) as tool:

        def call(**arguments: object) -> Answer:
            return portal.call(lambda: tool(**arguments))

        yield call


def test_an_unknown_action_is_answered_with_the_valid_ones(pos_workflow: Called) -> None:
    result = pos_workflow(action="invalid_action")
    assert result["status"] == "error"
    assert "valid_actions" in result


def test_missing_parameters_are_named(pos_workflow: Called) -> None:
    result = pos_workflow(action="start")  # Missing workflow_type, target_file
    assert result["status"] == "error"
    assert "workflow_type" in result["error"]


def test_a_path_out_of_the_workspace_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="directory traversal") as refused:
        check_target_file("../../../etc/passwd")
    assert refused.value.error_type == "ValueError"


def test_evidence_over_ten_megabytes_is_refused() -> None:
    large = b'{"data": "' + b"x" * (11 * 1024 * 1024) + b'"}'
    call = b'{"action": "complete_phase", "session_id": "x", "phase": 1, "evidence": ' + large + b"}"
    with pytest.raises(InvalidArgument, match="too large") as refused:
        parse_request(call, Kinds(REQUESTS))
    assert refused.value.error_type == "ValueError"


def test_workflows_are_listed_and_filtered_by_category(pos_workflow: Called) -> None:
    result = pos_workflow(action="list_workflows")
    assert result["status"] == "success"
    assert len(result["workflows"]) >= 2  # test_generation_v3, spec_creation_v1
    assert all("workflow_type" in w for w in result["workflows"])

    # Test filtering
    result = pos_workflow(action="list_workflows", category="code_generation")
    assert all(w["category"] == "code_generation" for w in result["workflows"])
    assert [w["workflow_type"] for w in result["workflows"]] == ["test_generation_v3"]


def test_start_answers_the_first_phase_and_writes_the_state_file(
    pos_workflow: Called, workspace: Path
) -> None:
    result = pos_workflow(action="start", workflow_type="test_generation_v3", target_file="src/test.py")
    assert result["status"] == "success"
    assert "session_id" in result
    assert result["current_phase"] == 1
    assert "phase_content" in result

    # Verify state file created
    state_file = workspace / f".praxis-os/state/workflows/{result['session_id']}.json"
    assert state_file.exists()


@pytest.fixture
def session(pos_workflow: Called) -> Answer:
    return pos_workflow(action="start", workflow_type="test_gen_v3", target_file="test.py")


def test_get_phase_shows_the_current_phase(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(action="get_phase", session_id=session["session_id"])
    assert result["status"] == "success"
    assert result["current_phase"] == 1
    assert "phase_content" in result


def test_get_task_shows_the_execution_steps(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(action="get_task", session_id=session["session_id"], phase=1, task_number=1)
    assert result["status"] == "success"
    assert "task_content" in result
    assert "execution_steps" in result["task_content"]


def test_complete_phase_passes_with_whole_evidence(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(
        action="complete_phase", session_id=session["session_id"], phase=1, evidence=PHASE_ONE
    )
    assert result["status"] == "success"
    assert result["checkpoint_passed"] is True
    assert result["phase_completed"] == 1
    assert "next_phase" in result


def test_complete_phase_names_what_is_missing(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(
        action="complete_phase",
        session_id=session["session_id"],
        phase=1,
        evidence={"code_structure": PHASE_ONE["code_structure"]},  # Missing test_candidates
    )
    assert result["status"] == "error"
    assert result["checkpoint_passed"] is False
    assert "missing_evidence" in result
    assert result["missing_evidence"] == ["test_candidates"]


def test_get_state_is_whole(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(action="get_state", session_id=session["session_id"])
    assert result["status"] == "success"
    assert "workflow_type" in result
    assert "current_phase" in result
    assert "artifacts" in result
    assert "resume_capable" in result


def test_list_sessions_counts_and_filters(pos_workflow: Called) -> None:
    for i in range(3):
        pos_workflow(action="start", workflow_type="test_gen_v3", target_file=f"test_{i}.py")

    result = pos_workflow(action="list_sessions")
    assert result["status"] == "success"
    assert result["count"] >= 3

    # Test filtering
    result = pos_workflow(action="list_sessions", status="active")
    assert all(s["status"] == "active" for s in result["sessions"])


def test_get_session_has_the_phase_history(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(action="get_session", session_id=session["session_id"])
    assert result["status"] == "success"
    assert "session" in result
    assert "phase_history" in result["session"]


def test_delete_session_removes_the_state_file(
    pos_workflow: Called, session: Answer, workspace: Path
) -> None:
    session_id = session["session_id"]
    result = pos_workflow(action="delete_session", session_id=session_id, reason="Test cleanup")
    assert result["status"] == "success"
    assert result["deleted"] is True

    # Verify state file removed
    state_file = workspace / f".praxis-os/state/workflows/{session_id}.json"
    assert not state_file.exists()


def test_pause_keeps_a_session_for_later(pos_workflow: Called, session: Answer) -> None:
    result = pos_workflow(
        action="pause", session_id=session["session_id"], checkpoint_note="Waiting for review"
    )
    assert result["status"] == "success"
    assert result["paused"] is True
    assert result["resume_capable"] is True


def test_resume_goes_on_at_the_phase(pos_workflow: Called, session: Answer) -> None:
    pos_workflow(action="pause", session_id=session["session_id"])

    result = pos_workflow(action="resume", session_id=session["session_id"])
    assert result["status"] == "success"
    assert result["resumed"] is True
    assert result["current_phase"] == 1
    assert "paused_duration_seconds" in result


def test_retry_phase_shows_the_phase_again(pos_workflow: Called, session: Answer) -> None:
    # Simulate failure
    pos_workflow(action="complete_phase", session_id=session["session_id"], phase=1, evidence={})

    result = pos_workflow(action="retry_phase", session_id=session["session_id"], phase=1)
    assert result["status"] == "success"
    assert result["retrying"] is True
    assert "phase_content" in result


def test_rollback_returns_to_an_earlier_phase(pos_workflow: Called, session: Answer) -> None:
    # Complete phase 1, advance to phase 2
    pos_workflow(action="complete_phase", session_id=session["session_id"], phase=1, evidence=PHASE_ONE)

    result = pos_workflow(action="rollback", session_id=session["session_id"], to_phase=1)
    assert result["status"] == "success"
    assert result["rolled_back"] is True
    assert result["to_phase"] == 1
    assert result["from_phase"] == 2


def test_get_errors_lists_what_went_wrong(pos_workflow: Called, session: Answer) -> None:
    # Cause an error
    pos_workflow(action="complete_phase", session_id=session["session_id"], phase=1, evidence={})

    result = pos_workflow(action="get_errors", session_id=session["session_id"])
    assert result["status"] == "success"
    assert result["error_count"] >= 1
    assert len(result["errors"]) >= 1
