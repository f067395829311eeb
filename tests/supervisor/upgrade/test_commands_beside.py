"""The commands in a workspace that an mcpkeep serves: they go through it."""

import json
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mcpkeep.supervisor.control import socket_path
from tests.praxis import World, make_variant, world_in
from tests.upgrades import (
    NEW_TOOL,
    Traffic,
    content_of,
    run_mcpkeep,
    session_in,
    start_mcpkeep,
    until_told,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


async def test_with_a_running_mcpkeep_the_commands_go_through_it_and_the_session_goes_on(
    world: World,
) -> None:
    edited = world.base / "standards" / "universal" / "ai-safety" / "git-safety.md"
    edited.write_text(edited.read_text().replace("Look at the diff before", "Look at it before"))
    before = content_of(world)
    source = ("--source", str(world.source))
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        old = await session.server()
        done = await anyio.to_thread.run_sync(run_mcpkeep, world, "upgrade", *source, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["type"], answer["from_version"], answer["to_version"]) == (
            "upgrade.done",
            "v1.1.0",
            "v2.0.0",
        )
        assert "Look at it before" in edited.read_text(), "with --yes a file in conflict is kept"
        assert "moving requests over" in done.stderr
        new = await traffic.until_answered_by(lambda pid: pid != old)
        await session.until_changed(1)
        assert NEW_TOOL in await session.tools()
        back = await anyio.to_thread.run_sync(run_mcpkeep, world, "rollback")
        assert (back.returncode, back.stdout.startswith("rolled back to adopted in ")) == (0, True)
        await traffic.until_answered_by(lambda pid: pid != new)
    assert traffic.failures == []
    assert content_of(world) == before


async def test_after_ctrl_c_a_running_mcpkeep_goes_on_until_it_is_told_to_give_up(world: World) -> None:
    make_variant(world.source, "hang")
    before = content_of(world)
    async with session_in(world) as session:
        process = start_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
        await anyio.to_thread.run_sync(until_told, process, "starting the new server")
        process.send_signal(signal.SIGINT)
        _, rest = await anyio.to_thread.run_sync(process.communicate)
        assert (process.returncode, f"mcpkeep (pid {session.holder()}) goes on with it" in rest) == (
            130,
            True,
        )
        busy = await anyio.to_thread.run_sync(run_mcpkeep, world, "upgrade", "--source", str(world.source))
        assert (busy.returncode, "the lock is held by session" in busy.stderr) == (1, True), busy.stderr
        given_up = await anyio.to_thread.run_sync(run_mcpkeep, world, "upgrade", "--abort", "--json")
        assert (given_up.returncode, len(json.loads(given_up.stdout)["sessions"])) == (0, 1)
    assert (content_of(world), (world.base / ".upgrade-lock").exists()) == (before, False)


async def test_where_the_running_mcpkeep_cannot_be_asked_nothing_is_changed_behind_its_back(
    world: World,
) -> None:
    async with session_in(world) as session:
        await session.keep("report")
        socket_path(world.base / ".mcpkeep").unlink()
        done = await anyio.to_thread.run_sync(run_mcpkeep, world, "rollback")
        assert (done.returncode, f"pid {session.holder()}" in done.stderr) == (1, True), done.stderr
        look = await anyio.to_thread.run_sync(run_mcpkeep, world, "backups")
        assert look.returncode == 0
