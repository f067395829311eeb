"""Upgrades of a sample prAxIs OS as its user sees them: the official client, real processes and packages."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest
from mcp.shared.exceptions import MCPError

from mcpkeep.supervisor.upgrade.git import run_git
from tests.praxis import World, make_dirty, make_variant, make_without_git, shallow_clone, world_in
from tests.upgrades import (
    LIMIT,
    NEW_TOOL,
    Session,
    Traffic,
    ask_back,
    content_of,
    live_processes,
    run_mcpkeep,
    session_in,
    tree_of,
)

pytestmark = pytest.mark.anyio

GIT_SAFETY = "standards/universal/ai-safety/git-safety.md"
PYRAMID = "standards/universal/testing/test-pyramid.md"
WINDOWS = "standards/universal/documentation/windows.md"
LOCKS = "standards/universal/concurrency/locking.md"
LOCKS_AND_QUEUES = "standards/universal/concurrency/locks-and-queues.md"
OWN = "standards/development/our-rules.md"
METADATA = "workflows/spec_execution_v1/metadata.json"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


def work_as_a_user(world: World) -> None:
    """Edit beside what the new version changes, in a text and in JSON; add a file; delete one."""
    edit(world, GIT_SAFETY, "History is what", "Our history is what")
    edit(world, METADATA, '"estimated_duration": "30 minutes"', '"estimated_duration": "a day"')
    (world.base / OWN).write_text("# Our rules\n\nWe name branches after their issues.\n")
    (world.base / WINDOWS).unlink()


def edit(world: World, path: str, old: str, new: str) -> None:
    text = (world.base / path).read_text()
    assert old in text
    (world.base / path).write_text(text.replace(old, new))


async def test_six_phases_a_new_tool_and_back_by_a_signal_without_one_failed_call(world: World) -> None:
    work_as_a_user(world)
    before = content_of(world)
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        assert NEW_TOOL not in await session.tools()
        old = await session.server()
        session_id = await session.start()
        answers = await session.complete_all(session_id)
        assert [answer["phase_completed"] for answer in answers] == list(range(6))
        assert answers[-1]["workflow_complete"]

        await session.until_changed(1)
        assert NEW_TOOL in await session.tools()
        explained = await session.call(NEW_TOOL, standard="locks-and-queues")
        assert explained["title"] == "Locks"
        new = await traffic.until_answered_by(lambda pid: pid != old)
        after = content_of(world)

        ask_back(session)
        await session.until_changed(2)
        assert NEW_TOOL not in await session.tools()
        await traffic.until_answered_by(lambda pid: pid != new)
        await session.until_rolled_back(session_id)
    assert traffic.failures == []
    assert b"Our history" in after[GIT_SAFETY] and b"Look at the whole diff" in after[GIT_SAFETY]
    merged = json.loads(after[METADATA])
    assert (merged["version"], merged["estimated_duration"]) == ("2.0.0", "a day")
    assert (WINDOWS in after, after[OWN], LOCKS in after) == (False, before[OWN], False)
    assert b"Hold one lock at a time" in after[LOCKS_AND_QUEUES]
    assert content_of(world) == before
    assert live_processes(world) == []


async def test_an_upgrade_leaves_its_reports_and_neither_lock_nor_staging(world: World) -> None:
    base = world.base
    async with session_in(world) as session:
        session_id = await session.start()
        await session.complete_all(session_id)
        status = await session.keep("status")
        artifacts = (await session.state(session_id))["artifacts"]
    own = base / ".mcpkeep"
    (backup,) = [path for path in (base / ".backups").iterdir() if path.is_dir()]
    manifest = json.loads((backup / "MANIFEST.json").read_text())
    names = sorted(path.name.split("-")[1] for path in (base / ".cache").glob("upgrade-*"))
    line = json.loads((own / "upgrades.jsonl").read_text().splitlines()[-1])
    assert names == ["summary", "validation"]
    assert manifest["files"][GIT_SAFETY]["size"] == 640
    assert "v2.0.0" in (base / "VERSION.txt").read_text()
    assert "=== Upgrade to v2.0.0 - " in (base / "UPDATE_LOG.txt").read_text()
    assert "v2.0.0" in (base / "INSTALLATION_SUMMARY.md").read_text()
    assert line["session_id"] == session_id
    assert ((base / "venv").is_symlink(), (own / "current").is_symlink()) == (True, True)
    assert list((own / "staging").glob("*")) == []
    assert (status["status"], sorted(artifacts)) == ("success", [f"phase_{n}" for n in range(6)])
    assert artifacts["phase_0"]["source_version"] == "v2.0.0"


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0"])
async def test_two_upgrades_one_after_the_other_reach_the_newest(tmp_path: Path, version: str) -> None:
    """The first keeps the packages, the second needs newer ones; or both at once."""
    world = world_in(tmp_path, "v1.0.0")
    stops = ["v1.1.0", "v2.0.0"] if version == "v1.0.0" else ["v2.0.0"]
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        for stop in stops:
            checkout(world, stop)
            await session.complete_all(await session.start())
            assert stop in (world.base / "VERSION.txt").read_text()
    assert traffic.failures == []


def checkout(world: World, version: str) -> None:
    run_git(world.source, "checkout", "--quiet", version)


async def test_an_older_installation_gets_the_newer_name_and_goes_back_to_its_own(tmp_path: Path) -> None:
    world = world_in(tmp_path, "v1.0.0", base=".agent-os")
    before = content_of(world)
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        old = await session.server()
        await session.complete_all(await session.start())
        assert (world.workspace / ".agent-os").is_symlink()
        assert (world.workspace / ".praxis-os").is_dir()
        new = await traffic.until_answered_by(lambda pid: pid != old)
        ask_back(session)
        await traffic.until_answered_by(lambda pid: pid != new)
    assert traffic.failures == []
    assert content_of(world) == before


# Refused before anything is touched


@pytest.mark.parametrize(
    "wrong", ["changed", "untracked", "no git", "shallow", "target", "relative", "missing"]
)
async def test_a_source_that_cannot_be_trusted_is_refused_in_phase_0(world: World, wrong: str) -> None:
    source: str = str(world.source)
    match wrong:
        case "changed":
            make_dirty(world.source)
        case "untracked":
            make_dirty(world.source, tracked=False)
        case "no git":
            make_without_git(world.source)
        case "shallow":
            source = str(shallow_clone(world.source, world.workspace.parent / "shallow"))
        case "target":
            source = str(world.base)
        case "relative":
            source = "source"
        case _:
            source = str(world.workspace.parent / "nowhere")
    before = content_of(world)
    async with session_in(world) as session:
        session_id = await session.start(source_path=source)
        answer = await session.complete(session_id, 0)
        locked = (world.base / ".upgrade-lock").exists()
    if wrong == "shallow":  # it can be used: what has no base is a conflict, and counted
        assert answer["status"] == "success", answer
    else:
        assert (answer["status"], bool(answer["remediation"])) == ("error", True), answer
    assert (content_of(world), locked) == (before, False)


async def test_a_dry_run_changes_nothing_not_even_a_timestamp(world: World) -> None:
    work_as_a_user(world)
    source = tree_of(world.source)
    before = tree_of(world.workspace)
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert tree_of(world.workspace) == before
    assert tree_of(world.source) == source


# New versions that are broken


@pytest.mark.parametrize(
    ("variant", "phase", "told"),
    [
        ("missing_package", 1, "mcpkeep-sample-nowhere"),
        ("syntax_error", 3, "SyntaxError"),
        ("missing_module", 3, "sample_nowhere"),
        ("crash_on_first_call", 3, ""),
        ("wrong_index", 3, "grep_fallback"),
    ],
)
async def test_a_version_that_does_not_work_never_serves(
    world: World, variant: str, phase: int, told: str
) -> None:
    make_variant(world.source, variant)
    work_as_a_user(world)
    before = content_of(world)
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        session_id = await session.start()
        await session.complete_all(session_id, range(phase))
        answer = await session.complete(session_id, phase)
        errors = await session.workflow("get_errors", session_id=session_id)
        undone = await session.workflow("rollback", session_id=session_id, to_phase=0)
        lock = world.base / ".upgrade-lock"
        assert (answer["status"], undone["status"]) == ("error", "success")
        assert told in json.dumps(answer) and told in json.dumps(errors)
        status = (await session.keep("status")).get("upgrade", {})
        assert status.get("lock") is None, lock.read_text()
    assert traffic.failures == []
    assert content_of(world) == before
    assert live_processes(world) == []


async def test_fewer_tools_are_a_fact_and_no_failure(world: World) -> None:
    make_variant(world.source, "fewer_tools")
    async with session_in(world) as session:
        await session.complete_all(await session.start())
        assert "pos_browser" not in await session.tools()
        report = await session.keep("report")
    assert "pos_browser" in json.dumps(report)


async def test_a_version_that_talks_on_stdout_does_not_disturb_the_session(world: World) -> None:
    make_variant(world.source, "noisy_stdout")
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        session_id = await session.start()
        answers = [await session.complete(session_id, phase) for phase in range(4)]
    assert traffic.failures == []
    assert [answer["status"] for answer in answers[:3]] == ["success"] * 3


async def test_a_crash_loop_in_probation_brings_the_old_version_back(world: World) -> None:
    make_variant(world.source, "crash_on_date")
    before = content_of(world)
    async with session_in(world) as session:
        old = await session.server()
        session_id = await session.start()
        await session.complete_all(session_id)
        await session.until_changed(1)
        with anyio.fail_after(LIMIT):
            while (await session.state(session_id))["session_status"] != "rolled_back":
                with suppress(MCPError):
                    await session.client.call_tool("current_date", {}, read_timeout_seconds=LIMIT)
        assert NEW_TOOL not in await session.tools()
        assert (await session.call("current_date"))["iso_date"]
        assert psutil.Process(await session.server()).is_running() and old
    assert content_of(world) == before


# What the user does meanwhile


async def test_a_conflict_waits_for_its_decision_and_the_other_side_is_kept(world: World) -> None:
    edit(world, GIT_SAFETY, "Look at the diff before", "Look at it before")
    async with session_in(world) as session:
        session_id = await session.start()
        await session.complete_all(session_id, range(2))
        waiting = await session.complete(session_id, 2)
        assert list(waiting["conflicts"]) == [GIT_SAFETY], waiting
        decided = await session.keep(
            "resolve", plan_id=waiting["plan_id"], decisions={"standards/universal/ai-safety/*": "keep"}
        )
        assert decided["status"] == "success", decided
        await session.complete_all(session_id, range(2, 6))
    aside = world.base / ".mcpkeep" / "conflicts" / session_id
    texts = [path.read_text() for path in aside.rglob("*") if path.is_file()]
    assert "Look at it before" in (world.base / GIT_SAFETY).read_text()
    assert [text for text in texts if "Look at the whole diff" in text]


async def test_an_edit_made_after_the_merge_is_in_what_is_installed(world: World) -> None:
    async with session_in(world) as session:
        session_id = await session.start()
        await session.complete_all(session_id, range(3))
        edit(world, GIT_SAFETY, "History is what", "Our history is what")
        stale = await session.complete(session_id, 3)
        if stale["status"] == "error":
            await session.workflow("rollback", session_id=session_id, to_phase=2)
            await session.complete_all(session_id, range(2, 4))
        await session.complete_all(session_id, range(4, 6))
    text = (world.base / GIT_SAFETY).read_text()
    assert "Our history" in text and "Look at the whole diff" in text


async def test_an_edit_made_after_the_upgrade_survives_the_way_back(world: World) -> None:
    async with session_in(world) as session, Traffic(session).flowing() as traffic:
        old = await session.server()
        await session.complete_all(await session.start())
        new = await traffic.until_answered_by(lambda pid: pid != old)
        edit(world, PYRAMID, "Most tests are small", "Nearly all tests are small")
        edit(world, LOCKS_AND_QUEUES, "Two that change", "Any two that change")
        rolled = await session.keep("rollback")
        assert rolled["status"] == "success", rolled
        await traffic.until_answered_by(lambda pid: pid != new)
    assert traffic.failures == []
    assert "Nearly all tests are small" in (world.base / PYRAMID).read_text()
    # Where upstream had renamed the file, the edit stays under the new name, beside the old version.
    assert "- Hold a lock for as short" in (world.base / LOCKS).read_text()
    assert "Any two that change" in (world.base / LOCKS_AND_QUEUES).read_text()


async def test_a_second_upgrade_is_refused_and_names_the_first(world: World) -> None:
    async with session_in(world) as first, session_in(world) as second:
        session_id = await first.start()
        await first.complete_all(session_id, range(2))
        done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes", "--json")
        plan = await second.keep("plan", source_path=str(world.source))
        assert (done.returncode, session_id in done.stdout + done.stderr) == (1, True)
        assert plan["status"] in ("success", "error")
        await first.complete_all(session_id, range(2, 6))


# The end of mcpkeep in the middle


async def resumed(world: World, session_id: str) -> None:
    """Open the workspace again, complete what is left, and find everything in order."""
    async with session_in(world) as session:
        assert session_id in [
            each["session_id"] for each in (await session.workflow("list_sessions"))["sessions"]
        ]
        state = await session.state(session_id)
        assert state["session_status"] == "active", state
        await session.complete_all(session_id, range(state["current_phase"], 6))
        assert NEW_TOOL in await session.tools()
    assert live_processes(world) == []


@pytest.mark.parametrize("phase", range(1, 6))
async def test_killed_between_phases_the_session_goes_on_where_it_stood(world: World, phase: int) -> None:
    work_as_a_user(world)
    session_id = ""
    with pytest.RaisesGroup(Exception, allow_unwrapped=True, flatten_subgroups=True):
        async with session_in(world) as session:
            session_id = await session.start()
            await session.complete_all(session_id, range(phase))
            os.kill(session.holder(), signal.SIGKILL)
            await session.keep("status")
    await resumed(world, session_id)


@pytest.mark.parametrize("how", ["the client leaves", "SIGTERM"])
async def test_an_upgrade_under_way_ends_whole_when_its_mcpkeep_leaves(world: World, how: str) -> None:
    work_as_a_user(world)
    before = content_of(world)
    session_id = ""
    try:
        async with session_in(world) as session:
            session_id = await session.start()
            await session.complete_all(session_id, range(3))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.complete, session_id, 3)
                await begun(session, session_id)
                if how == "SIGTERM":
                    os.kill(session.holder(), signal.SIGTERM)
                tasks.cancel_scope.cancel()
    except Exception:
        assert how == "SIGTERM"
    assert live_processes(world) == []
    async with session_in(world) as session:
        state = await session.state(session_id)
        assert state["current_phase"] in (3, 4)
        if state["current_phase"] == 3:  # undone, or made whole and not yet told to the session
            assert content_of(world) == before or "v2.0.0" in (world.base / "VERSION.txt").read_text()
        if state["session_status"] == "failed":
            await session.workflow("retry_phase", session_id=session_id, phase=3)
        await session.complete_all(session_id, range(state["current_phase"], 6))


async def begun(session: Session, session_id: str) -> None:
    """Wait until a phase of that session is under way."""
    with anyio.fail_after(LIMIT):
        while (await session.keep("status")).get("upgrade", {}).get("under_way") is None:
            await anyio.lowlevel.checkpoint()
