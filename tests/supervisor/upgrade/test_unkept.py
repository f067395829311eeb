"""A server that an IDE runs without mcpkeep is not upgraded beneath it: real servers, real commands."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.sweep import RUN_VARIABLE
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.unkept import refuse_unkept
from tests.praxis import World, server_command, server_environment, world_in
from tests.rpc import Client
from tests.upgrades import content_of, run_mcpkeep

REMEDY = "close the IDE's session with it, or let the IDE's entry start `mcpkeep run`; then try again"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


def server(world: World, *, env: Mapping[str, str] | None = None, relative: bool = False) -> Client:
    """As the IDE's entry starts it."""
    python, *words = server_command(world)
    python = str(Path(python).relative_to(world.workspace)) if relative else python
    return Client([python, *words], world.workspace, env={**server_environment(world), **(env or {})})


def refusal(world: World) -> str | None:
    layout = find_installation(world.workspace)
    assert layout is not None
    try:
        refuse_unkept(layout)
    except UpgradeFailed as failed:
        assert failed.remediation == REMEDY
        return str(failed)
    return None


def told(client: Client) -> str:
    return f"a server of this workspace runs without mcpkeep (pid {client.process.pid})"


def test_upgrade_and_rollback_are_refused_beside_it_and_a_plan_is_not(world: World) -> None:
    before = content_of(world)
    with server(world) as client:
        client.initialize()
        for words in (("upgrade", "--source", str(world.source), "--yes"), ("rollback",)):
            done = run_mcpkeep(world, *words)
            assert done.returncode == 1
            assert told(client) in done.stderr and REMEDY in " ".join(done.stderr.split())
        assert run_mcpkeep(world, "plan", "--source", str(world.source)).returncode == 0
        assert run_mcpkeep(world, "upgrade", "--source", str(world.source), "--dry-run").returncode == 0
        assert content_of(world) == before
        assert not (world.base / ".mcpkeep" / "releases").exists()
        assert "result" in client.call("current_date")


@pytest.mark.parametrize("relative", [False, True])
def test_it_is_found_by_its_command_where_its_state_file_is_gone(world: World, relative: bool) -> None:
    with server(world, relative=relative) as client:
        client.initialize()
        (world.base / ".mcp_server_state.json").unlink()
        assert refusal(world) == told(client)


def test_it_is_found_by_its_state_file_where_another_interpreter_runs_it(world: World) -> None:
    python, *words = server_command(world)
    elsewhere = world.workspace.parent / "elsewhere"
    shutil.copytree(world.base / "venv", elsewhere, symlinks=True)
    command = [str(elsewhere / "bin" / Path(python).name), *words]
    with Client(command, world.workspace, env=server_environment(world)) as client:
        client.initialize()
        assert refusal(world) == told(client)
        (world.base / ".mcp_server_state.json").unlink()
        assert refusal(world) is None


def test_one_that_left_its_state_file_behind_does_not_count(world: World) -> None:
    with server(world) as client:
        client.initialize()
        state = (world.base / ".mcp_server_state.json").read_bytes()
    (world.base / ".mcp_server_state.json").write_bytes(state)
    assert refusal(world) is None


@pytest.mark.parametrize("state", [b"", b"{}", b'{"pid": -1}', b'{"pid": 99999999999999999999}', b"\xff"])
def test_a_state_file_that_names_nobody_is_no_server(world: World, state: bytes) -> None:
    (world.base / ".mcp_server_state.json").write_bytes(state)
    assert refusal(world) is None


def test_the_child_of_an_mcpkeep_does_not_count(world: World) -> None:
    with server(world, env={RUN_VARIABLE: "another"}) as client:
        client.initialize()
        assert refusal(world) is None


def test_the_server_of_another_workspace_does_not_count(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = world_in(tmp_path / "other")
    with server(other) as client:
        client.initialize()
        assert (refusal(world), refusal(other)) == (None, told(client))


def test_a_process_whose_id_the_state_file_has_by_chance_does_not_count(world: World) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=world.workspace) as process:
        (world.base / ".mcp_server_state.json").write_text(json.dumps({"pid": process.pid}))
        assert refusal(world) is None
        process.communicate()


def test_a_venv_that_several_workspaces_share_tells_them_apart_by_the_working_folder(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = world_in(tmp_path / "other")
    shutil.rmtree(other.base / "venv")
    shared = tmp_path / "shared"
    (world.base / "venv").rename(shared)
    for each in (world, other):
        (each.base / "venv").symlink_to(shared)
    with server(other) as client:
        client.initialize()
        (other.base / ".mcp_server_state.json").unlink()
        assert (refusal(world), refusal(other)) == (None, told(client))
