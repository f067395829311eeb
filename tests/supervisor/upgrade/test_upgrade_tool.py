"""The tool `mcpkeep` upgrades: the official client, a user who is asked, a second window, and who leaves."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest
from mcp.client import ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp_types import ElicitRequestParams, ElicitResult

from tests import rpc
from tests.praxis import World, make_variant, world_in
from tests.upgrades import (
    LIMIT,
    NEW_TOOL,
    Traffic,
    content_of,
    live_processes,
    mcpkeep_environment,
    session_in,
    start_mcpkeep,
    until_told,
)

pytestmark = pytest.mark.anyio

GIT_SAFETY = "standards/universal/ai-safety/git-safety.md"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


def make_conflict(world: World) -> None:
    path = world.base / GIT_SAFETY
    path.write_text(path.read_text().replace("Look at the diff before", "Look at it before"))


# Its actions


async def test_from_the_plan_to_the_rollback_with_progress(world: World) -> None:
    source, steps = str(world.source), list[str]()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(message or "")

    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        plan = await session.keep("plan", source_path=source)
        assert (plan["status"], plan["plan"]["installed_version"]) == ("success", "v1.1.0")
        asked = {"action": "upgrade", "source_path": source, "plan_id": plan["plan"]["plan_id"]}
        result = await session.client.call_tool("mcpkeep", asked, progress_callback=progress)
        done: dict[str, Any] = result.structured_content or {}
        assert (done["status"], done["from_version"], done["to_version"]) == ("success", "v1.1.0", "v2.0.0")
        phases = [step for step in steps if step.startswith("phase ")]
        assert (phases[0], len(phases)) == ("phase 0 of 5: pre-flight checks", 6)
        await session.until_changed(1)
        assert NEW_TOOL in await session.tools()
        again = await session.keep("upgrade", source_path=source)
        assert (again["version"], again["release"]) == ("v2.0.0", done["to_release"])

        status = (await session.keep("status"))["upgrade"]
        assert (status["release"], status["version"]) == (done["to_release"], "v2.0.0")
        assert (status["lock"], status["under_way"], status["probation"]["former"]) == (None, None, "adopted")
        backups = await session.keep("backups")
        assert (backups["current"], len(backups["backups"])) == (done["to_release"], 1)
        backup_id = backups["backups"][0]["backup_id"]
        verified = await session.keep("verify", backup_id=backup_id)
        assert [(each["mismatches"], each["missing"]) for each in verified["verifications"]] == [([], [])]
        assert (await session.keep("report"))["path"] == done["summary"]

        stale = await session.keep("upgrade", source_path=source, plan_id="another")
        assert (stale["status"], "stale" in stale["error"]) == ("error", True)
        unknown = await session.keep("upgrade", source_path=source, force=True)
        assert (unknown["error_type"], "force" in unknown["error"]) == ("ValueError", True)
        rolled = await session.keep("rollback")
        assert (rolled["status"], rolled["to_release"]) == ("success", "adopted")
    assert traffic.failures == []


async def test_conflicts_are_listed_with_the_plan_and_answered_by_resolve(world: World) -> None:
    make_conflict(world)
    before = content_of(world)
    async with session_in(world) as session:
        listed = await session.keep("upgrade", source_path=str(world.source))
        assert (listed["error_type"], list(listed["conflicts"])) == ("ConflictsUndecided", [GIT_SAFETY])
        assert content_of(world) == before
        wrong = await session.keep("resolve", plan_id=listed["plan_id"], decisions={"nothing.md": "keep"})
        assert (wrong["status"], "nothing.md" in wrong["error"]) == ("error", True)
        text = "# Git safety\n\nBoth.\n"
        decisions = {GIT_SAFETY: {"merge": text}}
        resolved = await session.keep("resolve", plan_id=listed["plan_id"], decisions=decisions)
        assert (resolved["decided"], resolved["undecided"]) == ([GIT_SAFETY], [])
        done = await session.keep("upgrade", source_path=str(world.source))
        assert done["status"] == "success", done
        assert "the agent" in (await session.keep("report"))["text"]
    assert (world.base / GIT_SAFETY).read_text() == text


def user(answer: ElicitResult, seen: list[str]) -> ElicitationFnT:
    async def elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        seen.append(params.message)
        return answer

    return elicit


async def test_a_user_who_can_be_asked_decides_in_a_form(world: World) -> None:
    make_conflict(world)
    seen: list[str] = []
    answer = ElicitResult(action="accept", content={"file_1": "take"})
    async with session_in(world, elicit=user(answer, seen)) as session:
        done = await session.keep("upgrade", source_path=str(world.source))
    assert (done["status"], len(seen), GIT_SAFETY in seen[0]) == ("success", 1, True), done
    assert "Look at it before" not in (world.base / GIT_SAFETY).read_text()


async def test_a_user_who_declines_leaves_the_conflicts_to_the_agent(world: World) -> None:
    make_conflict(world)
    seen: list[str] = []
    async with session_in(world, elicit=user(ElicitResult(action="decline"), seen)) as session:
        listed = await session.keep("upgrade", source_path=str(world.source))
    assert (listed["error_type"], list(listed["conflicts"])) == ("ConflictsUndecided", [GIT_SAFETY])
    assert len(seen) == 1


# A second window


async def test_a_second_window_asks_the_holder_hands_its_signal_on_and_takes_over(world: World) -> None:
    before = content_of(world)
    async with session_in(world) as first:
        await first.tools()
        holder = first.holder()
        async with session_in(world) as second:
            window = (await second.keep("status"))["mcpkeep"]["pid"]
            assert window != holder
            old = await first.server()
            done = await second.keep("upgrade", source_path=str(world.source))
            assert done["status"] == "success", done
            await first.until_changed(1)
            assert (await first.server() != old, NEW_TOOL in await first.tools()) == (True, True)
            os.kill(window, signal.SIGUSR1)
            assert "adopted serves again" in await second.until_noticed("SIGUSR1: ")
            assert NEW_TOOL not in await first.tools()
            assert content_of(world) == before
            psutil.Process(holder).kill()
            with anyio.fail_after(LIMIT):
                while second.holder() != window:
                    await anyio.lowlevel.checkpoint()
            assert (await second.keep("report"))["upgrades"] == 1


# Who leaves, and what the next one is told


def serve(world: World) -> rpc.Client:
    """A client that just leaves, as an IDE does that gives its servers time."""
    command = [sys.executable, "-m", "mcpkeep.supervisor", "run"]
    return rpc.Client(command, world.workspace, env=mcpkeep_environment(world))


def begin_upgrade(client: rpc.Client, world: World, step: str) -> None:
    """Have the tool upgrade, and wait until it is at that step."""
    client.initialize()
    asked = {"action": "upgrade", "source_path": str(world.source)}
    client.request("tools/call", {"name": "mcpkeep", "arguments": asked, "_meta": {"progressToken": 1}})
    client.wait_for(lambda: any(step in told["message"] for told in client.notified("progress")), step)


async def told(world: World, text: str) -> tuple[str, dict[str, Any]]:
    """What the next client is told, and what it finds."""
    async with session_in(world) as session:
        notice = await session.until_noticed(text)
        return notice, (await session.keep("status"))["upgrade"]


async def test_an_upgrade_whose_client_left_is_finished_and_the_next_one_told(world: World) -> None:
    with serve(world) as client:
        begin_upgrade(client, world, "phase 0")
        client.close_stdin()
        assert client.wait_until_ended() == 0
    notice, status = await told(world, "after the client had left")
    assert "the upgrade succeeded: v1.1.0 to v2.0.0" in notice
    assert (status["version"], status["lock"], status["under_way"]) == ("v2.0.0", None, None)


@pytest.mark.parametrize("how", ["as configured", "by a signal after it", "by a signal alone"])
async def test_an_upgrade_whose_client_left_is_stopped_cleanly(world: World, how: str) -> None:
    make_variant(world.source, "hang")
    before = content_of(world)
    if how == "as configured":
        (world.workspace / "mcpkeep.toml").write_text('[upgrade]\non_disconnect = "stop"\n')
    with serve(world) as client:
        begin_upgrade(client, world, "starting the new server")
        if how != "by a signal alone":
            client.close_stdin()
        if how != "as configured":
            client.process.terminate()
        client.wait_until_ended()
    assert (content_of(world), (world.base / ".upgrade-lock").exists()) == (before, False)
    assert live_processes(world) == []
    notice, status = await told(world, "after the client had left")
    assert "the upgrade was ended" in notice
    assert (status["lock"], status["under_way"]) == (None, None)


async def test_what_the_start_recovered_is_told_to_the_client(world: World) -> None:
    make_variant(world.source, "hang")
    before = content_of(world)
    process = start_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    await anyio.to_thread.run_sync(until_told, process, "starting the new server")
    process.kill()
    process.communicate()
    async with session_in(world) as session:
        notice = await session.until_noticed("upgrade")
        status = (await session.keep("status"))["upgrade"]
        assert (status["lock"], status["recovered"]) == (None, [notice])
    assert content_of(world) == before
