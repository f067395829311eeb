"""Workflows from end to end: the official client on `mcpkeep run`, with kills, rivals and broken disks."""

import ast
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread
import msgspec
import psutil
import pytest
from mcp import Client

from tests.benchmarks.line import Line, call, decode_answer, mcpkeep_command
from tests.workflows import Answer, Tool, connected, make_workflow, make_workspace, own, served, tool_of

pytestmark = pytest.mark.anyio

DONE = {"done": True}

RIVAL = """
from mcp.server import MCPServer
server = MCPServer("rival")
for name in ("pos_workflow", "start_workflow", "get_current_phase", "get_task", "complete_phase",
             "get_workflow_state", "create_workflow", "validate_workflow", "search_standards"):
    server.add_tool(lambda action="": "the child's", name=name, description=name)
server.run("stdio")
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    workspace = make_workspace(tmp_path / "project")
    make_workflow(workspace, "two")
    return workspace


@pytest.fixture
async def client(workspace: Path) -> AsyncGenerator[Client]:
    async with connected(workspace) as client:
        yield client


@asynccontextmanager
async def to_be_killed(workspace: Path) -> AsyncGenerator[Client]:
    """A client whose mcpkeep may be gone before it is."""
    with suppress(Exception):
        async with connected(workspace) as client:
            body_ended = False
            try:
                yield client
                body_ended = True
            finally:
                assert body_ended


async def kill(client: Client) -> None:
    """SIGKILL mcpkeep, and wait until neither it nor its server is there."""
    status = await own(client, action="status")
    pids = [status["mcpkeep"]["pid"], status["server"]["pid"]]
    processes = [psutil.Process(pid) for pid in pids]
    os.kill(pids[0], signal.SIGKILL)
    _, alive = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(processes, timeout=20))
    assert alive == []


async def kill_server(client: Client) -> None:
    os.kill((await own(client, action="status"))["server"]["pid"], signal.SIGKILL)


def folder_of(workspace: Path) -> Path:
    return workspace / ".praxis-os" / "state" / "workflows"


async def begin(tool: Tool, target: str = "a.py") -> str:
    started = await tool(action="start", workflow_type="two", target_file=target)
    session_id: str = started["session_id"]
    return session_id


def shown_evidence(content: str) -> dict[str, object]:
    """The evidence in the call that a phase's text shows, as an agent would fill it in."""
    for block in re.findall(r"(?ms)^```python\n(.*?)^```$", content):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.keyword) and node.arg == "evidence":
                return cast("dict[str, object]", ast.literal_eval(node.value))
    raise AssertionError("no evidence is shown")


async def test_an_agent_that_does_what_the_phases_say_finishes_a_shipped_workflow(client: Client) -> None:
    tool = tool_of(client)
    listed = await tool(action="list_workflows", category="code_generation")
    (workflow,) = listed["workflows"]
    started = await tool(action="start", workflow_type=workflow["workflow_type"], target_file="src/app.py")
    session_id, content = started["session_id"], started["phase_content"]
    answer = started
    for number in range(1, 7):
        assert content["phase_number"] == number
        for listed_task in content["tasks"]:
            task = await tool(
                action="get_task",
                session_id=session_id,
                phase=number,
                task_number=listed_task["task_number"],
            )
            assert len(task["task_content"]["execution_steps"]) >= 2
        answer = await tool(
            action="complete_phase",
            session_id=session_id,
            phase=number,
            evidence=shown_evidence(content["content"]),
        )
        assert answer["checkpoint_passed"] is True, answer
        content = answer["next_phase_content"]
    assert (answer["workflow_complete"], content) == (True, None)
    session = (await tool(action="get_session", session_id=session_id))["session"]
    assert session["session_status"] == "completed"
    assert list(session["artifacts"]) == [f"phase_{number}" for number in range(1, 7)]
    assert [run["status"] for run in session["phase_history"]] == ["completed"] * 6


async def test_a_phase_fails_is_tried_again_and_succeeds(client: Client) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    refused = await tool(action="complete_phase", session_id=session_id, phase=1, evidence={"done": False})
    assert refused["error_type"] == "ValidationError"
    again = await tool(action="retry_phase", session_id=session_id, phase=1, reset_evidence=True)
    assert [error["phase"] for error in again["previous_errors"]] == [1]
    assert (await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE))["next_phase"]
    done = await tool(action="complete_phase", session_id=session_id, phase=2, evidence=DONE)
    assert done["workflow_complete"] is True
    assert (await tool(action="get_errors", session_id=session_id))["error_count"] == 1


async def test_a_paused_session_outlives_the_server_and_mcpkeep_and_is_resumed(workspace: Path) -> None:
    async with to_be_killed(workspace) as client:
        tool = tool_of(client)
        session_id = await begin(tool)
        await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE)
        await tool(action="pause", session_id=session_id, checkpoint_note="before the kill")
        before = await tool(action="get_session", session_id=session_id)
        await kill_server(client)
        assert await tool(action="get_session", session_id=session_id) == before
        await kill(client)
    async with connected(workspace) as client:
        tool = tool_of(client)
        listed = await tool(action="list_sessions", status="paused")
        assert [s["session_id"] for s in listed["sessions"]] == [session_id]
        assert await tool(action="get_session", session_id=session_id) == before
        resumed = await tool(action="resume", session_id=session_id)
        assert (resumed["current_phase"], resumed["phase_content"]["phase_number"]) == (2, 2)
        assert resumed["paused_duration_seconds"] > 0
        done = await tool(action="complete_phase", session_id=session_id, phase=2, evidence=DONE)
        assert done["workflow_complete"] is True


async def test_a_completed_workflow_is_rolled_back_and_finished_again(client: Client) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    for phase in (1, 2):
        await tool(action="complete_phase", session_id=session_id, phase=phase, evidence=DONE)
    back = await tool(action="rollback", session_id=session_id, to_phase=1)
    assert (back["from_phase"], back["to_phase"], back["artifacts_cleared"]) == (2, 1, ["phase_2"])
    for phase in (1, 2):
        answer = await tool(action="complete_phase", session_id=session_id, phase=phase, evidence=DONE)
    assert answer["workflow_complete"] is True
    session = (await tool(action="get_session", session_id=session_id))["session"]
    assert [(run["phase"], run["attempt"]) for run in session["phase_history"]] == [
        (1, 1),
        (2, 1),
        (1, 2),
        (2, 2),
    ]


async def test_the_tool_answers_while_the_server_is_down(workspace: Path) -> None:
    dies = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"]
    line = Line(mcpkeep_command(dies), cwd=workspace)
    try:
        # A legacy client opens its session with the server; our own tools need none.
        frame = call(1, "pos_workflow", {"action": "list_workflows"})
        answer = decode_answer(await anyio.to_thread.run_sync(line.exchange, frame))
        assert answer.id == 1 and b'"two"' in bytes(answer.result)
    finally:
        await anyio.to_thread.run_sync(line.close)


# What is offered


async def test_our_tool_stands_for_the_servers_and_its_separate_ones(workspace: Path) -> None:
    async with connected(workspace, server=[sys.executable, "-c", RIVAL]) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert sorted(tools) == ["mcpkeep", "pos_workflow", "search_standards"]
        assert (await tool_of(client)(action="list_sessions"))["count"] == 0


async def test_without_the_overlay_the_servers_own_tools_stand(workspace: Path) -> None:
    (workspace / "mcpkeep.toml").write_text("[relay]\noverlay = false\n")
    async with connected(workspace, server=[sys.executable, "-c", RIVAL]) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert sorted(tools) == [
            *("complete_phase", "create_workflow", "get_current_phase", "get_task", "get_workflow_state"),
            *("mcpkeep", "pos_workflow", "search_standards", "start_workflow", "validate_workflow"),
        ]


@pytest.mark.parametrize(
    ("sign", "enabled", "offered"),
    [
        (None, None, False),
        (None, "true", True),
        (".praxis-os", None, True),
        (".praxis-os", "false", False),
        (".agent-os", None, True),
        ("universal/workflows", None, True),
        ("universal", None, False),
    ],
)
async def test_the_tool_is_offered_where_workflows_are_known_or_the_configuration_says_so(
    tmp_path: Path, sign: str | None, enabled: str | None, offered: bool
) -> None:
    workspace = tmp_path / "project"
    (workspace / (sign or "")).mkdir(parents=True)
    if enabled is not None:
        (workspace / "mcpkeep.toml").write_text(f"[workflow]\nenabled = {enabled}\n")
    async with connected(workspace) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert ("pos_workflow" in tools) is offered
        assert ("workflows" in await own(client, action="status")) is offered
        if offered:
            session = await tool_of(client)(action="start", workflow_type="test_gen_v3", target_file="a.py")
            assert session["status"] == "success"
    # No droppings in a project without prAxIs OS.
    assert (workspace / ".praxis-os").exists() is (sign == ".praxis-os")
    assert (workspace / ".agent-os" / "state").exists() is (sign == ".agent-os")


async def test_the_status_of_mcpkeep_tells_of_sessions_cache_and_writer(client: Client) -> None:
    tool = tool_of(client)
    assert (await own(client, action="status"))["workflows"]["writer"] is None
    session_id = await begin(tool)
    await begin(tool)
    await tool(action="pause", session_id=session_id)
    for _ in range(50):
        await tool(action="get_phase", session_id=session_id)
    facts = (await own(client, action="status"))["workflows"]
    assert facts["sessions"] == {"count": 2, "active": 1, "paused": 1}
    assert facts["writer"] == "this process"
    assert facts["definitions"]["hit_rate"] >= 0.9


# Rivals


async def test_beside_a_writer_another_mcpkeep_reads_names_it_and_takes_over_when_it_is_killed(
    workspace: Path,
) -> None:
    async with to_be_killed(workspace) as first:
        session_id = await begin(tool_of(first))
        pid = (await own(first, action="status"))["mcpkeep"]["pid"]
        async with connected(workspace) as second:
            tool = tool_of(second)
            assert (await tool(action="get_state", session_id=session_id))["current_phase"] == 1
            for arguments in (
                {"action": "pause", "session_id": session_id},
                {"action": "start", "workflow_type": "two", "target_file": "b.py"},
                {"action": "delete_session", "session_id": session_id},
            ):
                answer = await tool(**arguments)
                assert answer["error_type"] == "StateError"
                assert f"pid {pid} (mcpkeep run" in answer["error"]
            assert f"pid {pid} (mcpkeep run" in (await own(second, action="status"))["workflows"]["writer"]
            await tool_of(first)(action="complete_phase", session_id=session_id, phase=1, evidence=DONE)
            assert (await tool(action="get_state", session_id=session_id))["current_phase"] == 2
            await kill(first)
            # It decides anew on what the first one left.
            late = await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE)
            assert late["error_type"] == "StateError"
            assert "(completed already)" in late["error"] and "the current phase is 2" in late["error"]
            done = await tool(action="complete_phase", session_id=session_id, phase=2, evidence=DONE)
            assert done["workflow_complete"] is True
            assert (await own(second, action="status"))["workflows"]["writer"] == "this process"


async def test_of_two_calls_at_once_on_one_session_one_wins_and_the_other_is_told(client: Client) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    answers: list[Answer] = []

    async def complete() -> None:
        answers.append(await tool(action="complete_phase", session_id=session_id, phase=1, evidence=DONE))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(complete)
    assert sorted(answer["status"] for answer in answers) == ["error", "error", "error", "success"]
    assert {a["error_type"] for a in answers if a["status"] == "error"} == {"StateError"}


# Broken disks and meddling hands


async def test_a_full_disk_is_a_storage_error_and_nothing_is_lost(client: Client) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    pid = (await own(client, action="status"))["mcpkeep"]["pid"]
    before = await tool(action="get_session", session_id=session_id)
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (300, limits[1]))
    for arguments in (
        {"action": "complete_phase", "session_id": session_id, "phase": 1, "evidence": DONE},
        {"action": "pause", "session_id": session_id},
        {"action": "start", "workflow_type": "two", "target_file": "b.py"},
    ):
        answer = await tool(**arguments)
        assert answer["error_type"] == "StorageError"
        assert answer["remediation"].startswith("free disk space")
    assert await tool(action="get_session", session_id=session_id) == before
    assert (await tool(action="list_sessions"))["count"] == 1
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    assert (await tool(action="pause", session_id=session_id))["paused"] is True


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_read_only_folder_is_a_storage_error_and_reads_go_on(client: Client, workspace: Path) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    folder_of(workspace).chmod(0o500)
    try:
        assert (await tool(action="pause", session_id=session_id))["error_type"] == "StorageError"
        assert (await tool(action="get_state", session_id=session_id))["session_status"] == "active"
    finally:
        folder_of(workspace).chmod(0o700)
    assert (await tool(action="pause", session_id=session_id))["paused"] is True


async def test_a_folder_replaced_by_a_file_is_a_storage_error_until_it_is_put_right(
    client: Client, workspace: Path
) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    folder = folder_of(workspace)
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    answer = await tool(action="pause", session_id=session_id)
    assert answer["error_type"] == "StorageError"
    assert answer["remediation"].startswith("move the file away that stands where the folder should be")
    assert (await tool(action="get_state", session_id=session_id))["session_status"] == "active"
    folder.unlink()
    folder.with_name("away").rename(folder)
    assert (await tool(action="pause", session_id=session_id))["paused"] is True


async def test_an_edit_by_hand_is_told_before_it_would_be_overwritten_and_counts(
    client: Client, workspace: Path
) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    file = folder_of(workspace) / f"{session_id}.json"
    snapshot = msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    del snapshot["checksum"]
    cast("dict[str, object]", snapshot["session"])["target_file"] = "by-hand.py"
    file.write_bytes(msgspec.json.encode(snapshot))
    answer = await tool(action="pause", session_id=session_id)
    assert answer["error_type"] == "StateError"
    assert answer["error"] == f"{session_id}.json was changed on disk, and was read again"
    state = await tool(action="get_state", session_id=session_id)
    assert (state["target_file"], state["session_status"]) == ("by-hand.py", "active")
    assert (await tool(action="pause", session_id=session_id))["paused"] is True


async def test_a_file_that_is_damaged_while_running_is_set_aside_and_the_session_goes_on(
    client: Client, workspace: Path
) -> None:
    tool = tool_of(client)
    session_id = await begin(tool)
    file = folder_of(workspace) / f"{session_id}.json"
    file.write_bytes(file.read_bytes()[:100])
    answer = await tool(action="pause", session_id=session_id)
    assert answer["error_type"] == "StateError" and "is kept as" in answer["remediation"]
    assert (await tool(action="pause", session_id=session_id))["paused"] is True
    assert file.with_name(f"{file.name}.damaged").exists()


async def test_a_file_damaged_while_nobody_ran_falls_back_and_is_reported(workspace: Path) -> None:
    async with served(workspace) as tool:
        session_id = await begin(tool)
        await tool(action="pause", session_id=session_id)
    file = folder_of(workspace) / f"{session_id}.json"
    file.write_bytes(b"\0" * 4096)
    async with connected(workspace) as client:
        listed = await tool_of(client)(action="list_sessions")
        assert [(s["session_id"], s["status"]) for s in listed["sessions"]] == [(session_id, "active")]
        (warning,) = listed["warnings"]
        assert "was damaged" in warning and "its previous generation stands in" in warning
        assert str(workspace) not in warning
    assert file.with_name(f"{file.name}.damaged").read_bytes() == b"\0" * 4096


async def test_a_session_of_praxis_os_is_carried_over_left_in_place_and_never_comes_back(
    workspace: Path,
) -> None:
    session_id = "3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f"
    older = workspace / ".praxis-os" / ".cache" / "state" / f"{session_id}.json"
    older.parent.mkdir(parents=True)
    upstream = {
        "session_id": session_id,
        "workflow_type": "two",
        "target_file": "old.py",
        "current_phase": 2,
        "completed_phases": [1],
        "phase_artifacts": {"1": {"phase_number": 1, "evidence": {"done": True}}},
        "checkpoints": {"1": "passed"},
        "created_at": "2025-10-20T10:00:00.123456",
        "updated_at": "2025-10-20T11:00:00",
        "metadata": {"total_phases": 2, "spec_path": "x"},
    }
    older.write_bytes(msgspec.json.encode(upstream))
    async with connected(workspace) as client:
        tool = tool_of(client)
        state = await tool(action="get_state", session_id=session_id)
        assert (state["current_phase"], state["artifacts"], state["options"]) == (
            2,
            {"phase_1": {"done": True}},
            {"spec_path": "x"},
        )
        assert not folder_of(workspace).exists()
        done = await tool(action="complete_phase", session_id=session_id, phase=2, evidence=DONE)
        assert done["workflow_complete"] is True
        await tool(action="delete_session", session_id=session_id)
    async with connected(workspace) as client:
        assert (await tool_of(client)(action="list_sessions"))["count"] == 0
    assert older.read_bytes() == msgspec.json.encode(upstream)
