"""`mcpkeep workflow` leads an upgrade with no mcpkeep running: the phases are run, not believed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.praxis import World, world_in
from tests.upgrades import NEW_TOOL, run_mcpkeep

Workflow = Callable[..., dict[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path, "v1.1.0")


@pytest.fixture
def workflow(world: World) -> Workflow:
    def workflow(*words: str) -> dict[str, Any]:
        done = run_mcpkeep(world, "workflow", *words, "--json")
        answer: dict[str, Any] = msgspec.json.decode(done.stdout)
        assert done.returncode == (0 if answer["status"] == "success" else 1), done.stderr
        return answer

    return workflow


def begin(world: World, workflow: Workflow) -> str:
    options = msgspec.json.encode({"source_path": str(world.source)}).decode()
    words = ("workflow_type=praxis_os_upgrade_v1", "target_file=.praxis-os", f"options={options}")
    session_id: str = workflow("start", *words)["session_id"]
    return session_id


def test_phases_are_run_from_a_terminal_and_a_failed_validation_takes_them_back(
    world: World, workflow: Workflow
) -> None:
    tools = world.base / "mcp_server" / "tools.py"
    session = f"session_id={begin(world, workflow)}"
    claimed = workflow("complete_phase", session, "phase=0", 'evidence={"source_version": "v9"}')
    assert claimed["validation_errors"] == [
        "field 'source_version': the evidence says 'v9', and mcpkeep measured 'v2.0.0'"
    ]
    answers = [workflow("complete_phase", session, f"phase={n}", "evidence={}") for n in range(4)]
    assert [answer["status"] for answer in answers] == ["success"] * 4
    assert NEW_TOOL in tools.read_text()

    (world.workspace / "mcpkeep.toml").write_text('[upgrade]\nunit_tests = ["false"]\n')
    failed = workflow("complete_phase", session, "phase=4", "evidence={}")
    assert "unit tests" in failed["error"]
    assert workflow("get_state", session)["session_status"] == "rolled_back"
    assert NEW_TOOL not in tools.read_text()
    assert not (world.base / ".upgrade-lock").exists()
