"""After an upgrade, while an mcpkeep serves a client: the frozen server; probation across a restart."""

import os
import signal
from contextlib import suppress

import anyio
import psutil
import pytest
from mcp.shared.exceptions import MCPError

from tests.praxis import World, make_variant, world_in
from tests.upgrades import (
    LIMIT,
    NEW_TOOL,
    Session,
    Traffic,
    ask_back,
    content_of,
    live_processes,
    session_in,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(tmp_path_factory.mktemp("w"))


def stopped(session: Session) -> list[psutil.Process]:
    children = psutil.Process(session.holder()).children(recursive=True)
    return [child for child in children if child.status() == psutil.STATUS_STOPPED]


async def upgrade_status(session: Session) -> dict[str, object]:
    status: dict[str, object] = (await session.keep("status"))["upgrade"]
    return status


@pytest.mark.parametrize("why", ["it died", "freeze = false"])
async def test_without_a_frozen_server_the_former_one_is_started_cold(world: World, why: str) -> None:
    before = content_of(world)
    if why == "freeze = false":
        (world.workspace / "mcpkeep.toml").write_text("[upgrade]\nfreeze = false\n")
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        session_id = await session.start()
        await session.complete_all(session_id)
        frozen = stopped(session)
        assert (await upgrade_status(session))["frozen"] == (None if why == "freeze = false" else "adopted")
        assert len(frozen) == (0 if why == "freeze = false" else 1)
        for process in frozen:
            process.kill()
            process.wait(LIMIT)
        with anyio.fail_after(LIMIT):
            while (await upgrade_status(session))["frozen"] is not None:
                pass
        ask_back(session)
        await session.until_rolled_back(session_id)
        assert NEW_TOOL not in await session.tools()
        assert (await upgrade_status(session))["probation"] is None
    assert traffic.failures == []
    assert content_of(world) == before
    assert live_processes(world) == []


async def test_the_frozen_server_goes_on_where_it_was_stopped(world: World) -> None:
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        session_id = await session.start()
        await session.complete_all(session_id)
        [frozen] = stopped(session)
        ask_back(session)
        await traffic.until_answered_by(lambda pid: pid == frozen.pid)
        await session.until_rolled_back(session_id)
        assert stopped(session) == []
    assert traffic.failures == []


async def test_a_crash_loop_after_a_restart_of_mcpkeep_within_probation_rolls_back(world: World) -> None:
    make_variant(world.source, "crash_on_date")
    before = content_of(world)
    async with session_in(world) as session:
        session_id = await session.start()
        await session.complete_all(session_id)
        release = (await upgrade_status(session))["release"]
    async with session_in(world) as session:
        probation = (await upgrade_status(session))["probation"]
        assert isinstance(probation, dict)
        assert (probation["release"], probation["former"]) == (release, "adopted")
        with anyio.fail_after(LIMIT):
            while (await session.state(session_id))["session_status"] != "rolled_back":
                with suppress(MCPError):
                    await session.client.call_tool("current_date", {}, read_timeout_seconds=LIMIT)
        assert (await session.call("current_date"))["iso_date"]
        assert (await upgrade_status(session))["release"] == "adopted"
        report = (await session.keep("report"))["text"]
        assert "| called for by | probation |" in report
    assert not (world.base / ".mcpkeep" / "probation.json").exists()
    assert content_of(world) == before


async def test_a_signal_while_nothing_can_be_gone_back_to_is_answered_in_the_log_alone(world: World) -> None:
    async with session_in(world) as session:
        pid = await session.server()
        log = world.base / ".mcpkeep" / "logs" / "mcpkeep.log"
        os.kill(session.holder(), signal.SIGUSR1)
        with anyio.fail_after(LIMIT):
            while "nothing to go back to: no upgrade was made" not in log.read_text():
                await session.keep("status")
        assert "No upgrade has been made here yet" in (await session.keep("report"))["text"]
        assert await session.server() == pid
