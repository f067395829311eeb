"""The upgrade actor over a world in memory: phases, refusals, interruptions, failures, the way back."""

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.resources import files
from typing import Any, cast

import anyio
import pytest

from mcpkeep.actors.actor import AskTimedOut
from mcpkeep.actors.upgrade import UpgradeActor
from mcpkeep.protocol.child import Notify
from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.backup import BackupRefused
from mcpkeep.protocol.upgrade.facts import Problem
from mcpkeep.protocol.upgrade.journal import Begun, Ended
from mcpkeep.protocol.upgrade.late_edit import LateEdit, Standing, tell_edits
from mcpkeep.protocol.upgrade.options import UpgradeOptions, UpgradeSettings
from mcpkeep.protocol.upgrade.plan import Case, Choice
from mcpkeep.protocol.upgrade.probation import Probation
from mcpkeep.protocol.upgrade.proof import SmokeResult
from mcpkeep.protocol.upgrade.release import InstallRefused
from mcpkeep.protocol.upgrade.request import (
    Aborted,
    AbortUpgrade,
    CancelWork,
    ConflictsUndecided,
    GetReport,
    GetUpgradeStatus,
    PhaseMeasured,
    Refused,
    Report,
    ResolveConflicts,
    Resolved,
    RollBack,
    RolledBack,
    RunPhase,
    RunUpgrade,
    ServerCrashed,
    Undone,
    UndoPhases,
    UpgradeAnswer,
    UpgradeDone,
    UpgradeFault,
    UpgradeMessage,
    UpgradeStatus,
)
from mcpkeep.protocol.upgrade.telling import tell_answer
from mcpkeep.protocol.workflow.gate import parse_gate
from mcpkeep.protocol.workflow.verdict import judge
from tests.upgrade_fakes import CONFLICT, NEW, NOW, OLD, FakeWorld, broken, proof_of

pytestmark = pytest.mark.anyio

OPTIONS = UpgradeOptions("/source")
RUN = RunUpgrade(OPTIONS, by="test")
LED: Mapping[str, object] = {"source_path": "/source"}
LIMIT = 5.0

Ask = Callable[[UpgradeMessage], Awaitable[UpgradeAnswer]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Running:
    """An actor that runs, and what it said to others."""

    def __init__(self, fakes: FakeWorld, settings: UpgradeSettings, probation: Probation | None) -> None:
        self.fakes = fakes
        self.told: list[Notify] = []
        self.marked: list[tuple[str, str]] = []
        self.bugs: list[Exception] = []
        self.actor = UpgradeActor(
            fakes.world(),
            settings,
            notify=self.told.append,
            mark_rolled_back=self._mark,
            on_bug=self._bug,
            recovered=("something was mended",),
            probation=probation,
        )

    def _bug(self, error: Exception) -> str:
        self.bugs.append(error)
        return "the log"

    async def _mark(self, session_id: str, reason: str) -> None:
        self.marked.append((session_id, reason))

    async def ask(self, message: UpgradeMessage) -> UpgradeAnswer:
        return await self.actor.ask(cast("Question[UpgradeAnswer]", message), within=LIMIT)

    async def phase(self, number: int, session_id: str = "led", **options: object) -> UpgradeAnswer:
        return await self.ask(RunPhase(session_id, number, {**LED, **options}))

    async def phases(self, last: int, **options: object) -> list[Mapping[str, object]]:
        """Run the phases up to this one, each of which succeeds; what they measured."""
        measured: list[Mapping[str, object]] = []
        for number in range(last + 1):
            answer = await self.phase(number, "led", **options)
            assert isinstance(answer, PhaseMeasured), answer
            measured.append(answer.evidence)
        return measured

    @asynccontextmanager
    async def at(self, name: str, message: UpgradeMessage) -> "AsyncGenerator[list[UpgradeAnswer]]":
        """While the work that this message asks for waits in that call; its answer comes afterwards."""
        reached, go = self.fakes.hold(name)
        answers: list[UpgradeAnswer] = []

        async def ask() -> None:
            answers.append(await self.ask(message))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(LIMIT):
                await reached.wait()
            yield answers
            go.set()


@asynccontextmanager
async def running(
    fakes: FakeWorld,
    settings: UpgradeSettings = UpgradeSettings(),  # noqa: B008 - a frozen value
    probation: Probation | None = None,
) -> AsyncGenerator[Running]:
    made = Running(fakes, settings, probation)
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.actor.run)
        yield made
        tasks.cancel_scope.cancel()


def gate_of(phase: int) -> bytes:
    folder = files("mcpkeep.supervisor") / "workflows" / "praxis_os_upgrade_v1" / "phases" / str(phase)
    return (folder / "gate-definition.yaml").read_bytes()


def require_untouched(fakes: FakeWorld) -> None:
    """Nothing is held, staged, prepared or open, and the old version stands."""
    assert (fakes.lock_, fakes.staging, fakes.open_sessions) == (None, set(), [])
    made = {record.session_id for record in fakes.changes_}
    assert (fakes.installed, fakes.prepared, fakes.started) == (OLD, made, None)
    assert fakes.running in (None, OLD)


# All of it


async def test_an_upgrade_does_its_phases_in_order_and_leaves_nothing_open() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        done = await run.ask(RUN)
    assert isinstance(done, UpgradeDone), done
    told = [
        "sources.inspect",
        "lock.acquire",
        "installer.adopt",
        "backups.create",
        "backups.verify",
        "installer.make",
        "contents.fill_staging",
        "contents.apply",
        "records.stage",
        "candidates.prove",
        "changes.prepare_first",
        "changes.swap_first",
        "changes.prepare_rest",
        "changes.swap_rest",
        "validation.measure",
        "contents.renew_baseline",
        "records.write_records",
        "lock.release",
    ]
    assert [name for name in dict.fromkeys(fakes.log) if name in told] == told
    assert (done.from_release, done.to_release, sorted(done.evidence)) == (OLD, NEW, list("012345"))
    assert (fakes.running, fakes.installed, fakes.freezing) == (NEW, NEW, OLD)
    assert (fakes.lock_, fakes.staging, fakes.open_sessions) == (None, set(), [])
    assert fakes.probation == Probation(done.session_id, NEW, OLD, NOW + timedelta(seconds=600))


@pytest.mark.parametrize("how", [{}, {"content_only": True}, {"server_only": True}])
async def test_what_each_phase_measures_passes_the_shipped_gate(how: Mapping[str, object]) -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        measured = await run.phases(5, **how)
    for phase, evidence in enumerate(measured):
        verdict = judge(parse_gate(gate_of(phase)), evidence)
        assert verdict.passed, (phase, verdict)
        assert verdict.warnings == (), (phase, verdict)
    assert measured[3]["mcp_server_copied"] is not ("content_only" in how)
    assert ("installer.make" in fakes.log) is not ("content_only" in how)


async def test_a_claim_that_contradicts_what_was_measured_fails_the_gate() -> None:
    async with running(FakeWorld()) as run:
        measured = await run.phases(1)
    claimed = {**measured[1], "integrity_verified": False}
    assert not judge(parse_gate(gate_of(1)), claimed).passed


async def test_a_phase_that_was_done_before_answers_what_it_measured_then() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        measured = await run.phases(2)
        fakes.log.clear()
        again = await run.phase(1)
    assert again == PhaseMeasured(measured[1])
    assert "backups.create" not in fakes.log


async def test_phases_that_were_undone_are_done_again_before_the_next() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(2)
        assert await run.ask(UndoPhases("led", 1)) == Undone(1)
        assert fakes.staging == set()
        fakes.log.clear()
        assert isinstance(await run.phase(2), PhaseMeasured)
    assert fakes.log.count("backups.create") == fakes.log.count("contents.apply") == 1


async def test_a_session_that_was_completed_before_a_crash_answers_without_the_lock() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        measured = await run.phases(5)
        again = await run.phase(5)
    assert again == PhaseMeasured(measured[5])
    assert fakes.lock_ is None


async def test_a_session_that_was_given_up_cannot_go_on() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(1)
        assert await run.ask(UndoPhases("led", 0)) == Undone(0)
        refused = await run.phase(1)
    assert refused == Refused("this session's upgrade has ended: aborted", "start a new session")
    require_untouched(fakes)


# One at a time


@pytest.mark.parametrize("message", [RUN, RunPhase("other", 1, LED), UndoPhases("other", 0)])
async def test_while_one_upgrade_is_under_way_another_is_refused_and_names_it(
    message: UpgradeMessage,
) -> None:
    fakes = FakeWorld()
    async with running(fakes) as run, run.at("contents.apply", RunPhase("led", 2, LED)):
        refused = await run.ask(message)
        assert isinstance(refused, Refused)
        assert refused.reason == "phase 2 of an upgrade is under way: merging"
        assert refused.details["session_id"] == "led"
        assert isinstance(await run.ask(GetReport()), Report)
        status = await run.ask(GetUpgradeStatus())
    assert isinstance(status, UpgradeStatus)
    assert status.under_way == {"session_id": "led", "what": "phase 2 of an upgrade", "step": "merging"}
    assert status.recovered == ("something was mended",)


async def test_an_upgrade_beside_one_that_another_process_leads_is_refused_and_changes_nothing() -> None:
    fakes = FakeWorld()
    fakes.lock_ = {"session_id": "theirs", "started_at": "then", "pid": 9, "alive": True}
    async with running(fakes) as run:
        refused = await run.ask(RUN)
    assert isinstance(refused, Refused)
    assert "theirs" in refused.reason and "process 9" in refused.reason
    assert fakes.lock_["session_id"] == "theirs"
    assert "backups.create" not in fakes.log


async def test_a_rollback_under_way_is_not_ended_by_another() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        async with run.at("changes.plan_first", RollBack(None, "first")) as answers:
            refused = await run.ask(RollBack(None, "second"))
            given_up = await run.ask(AbortUpgrade("third"))
    assert [type(answer) for answer in answers] == [RolledBack]
    for answer in (refused, given_up):
        assert isinstance(answer, Refused) and answer.remedy == "wait for it"
    assert fakes.installed == OLD


async def test_a_release_that_cannot_be_started_is_not_gone_back_to() -> None:
    fakes = FakeWorld()
    async with running(fakes, UpgradeSettings(freeze=False)) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        stands, fakes.unstartable = fakes.installed, ("its python is gone",)
        fakes.log.clear()
        failed = await run.ask(RollBack(None, "test"))
    assert isinstance(failed, UpgradeFault)
    assert "its python is gone; and no backup of it is left" in failed.reason
    assert "changes.undo" in fakes.log and "live.start" not in fakes.log
    assert (fakes.installed, fakes.running) == (stands, stands)
    assert (fakes.lock_, fakes.staging, fakes.open_sessions) == (None, set(), [])


# Interrupted


async def test_a_rollback_before_the_commit_ends_the_upgrade_and_answers_aborted() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        async with run.at("candidates.prove", RUN) as answers:
            assert await run.ask(RollBack(None, "test")) == Aborted(("id-1",))
        assert answers == [Refused("it was cancelled", "ask again")]
    require_untouched(fakes)
    assert fakes.journals_["id-1"][-1] == Ended("aborted", NOW, "rolled back to phase 0")


@pytest.mark.parametrize("message", [RUN, RunPhase("led", 3, LED)])
async def test_a_rollback_during_the_commit_waits_until_it_is_whole_and_takes_it_back(
    message: UpgradeMessage,
) -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        answers: list[UpgradeAnswer] = []

        async def ask() -> None:
            answers.append(await run.ask(RollBack(None, "test")))

        async with run.at("changes.swap_rest", message), anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert fakes.installed == OLD and answers == []
            fakes.held.pop("changes.swap_rest")[1].set()
    assert fakes.log.count("live.promote") == 3, fakes.log  # onto the adopted release, over, and back
    assert (fakes.installed, fakes.running, fakes.lock_, fakes.open_sessions) == (OLD, OLD, None, [])
    assert isinstance(answers[0], RolledBack | Aborted), answers


@pytest.mark.parametrize("phase", [1, 2, 3, 4, 5])
async def test_a_phase_that_its_caller_gives_up_is_taken_back_and_can_be_done_again(phase: int) -> None:
    where = {1: "installer.make", 2: "contents.apply", 3: "candidates.prove", 4: "live.call"}
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(phase - 1)
        name = where.get(phase, "records.write_records")
        async with run.at(name, RunPhase("led", phase, LED)):
            assert await run.ask(CancelWork("led")) == Aborted(("led",))
        del fakes.held[name]
        assert (fakes.staging != set()) is (phase > 1 and "contents.fill_staging" in fakes.log)
        assert isinstance(await run.phase(phase), PhaseMeasured)
    assert run.marked == []


async def test_a_cancel_for_another_session_ends_nothing() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        async with run.at("contents.apply", RunPhase("led", 2, LED)) as answers:
            assert await run.ask(CancelWork("other")) == Aborted(())
        assert [type(answer) for answer in answers] == [PhaseMeasured]


async def test_mcpkeep_leaving_during_a_commit_makes_it_whole_and_an_agent_goes_on_after_it() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(2)
        reached, go = fakes.hold("changes.swap_rest")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.phase, 3)
            await reached.wait()
            run.actor.stop()
            await anyio.wait_all_tasks_blocked()
            go.set()
            await run.actor.stopped()
    state = fakes.state("led")
    assert state is not None and sorted(state.phases) == [1, 2, 3] and state.committed
    assert (fakes.installed, fakes.running) == (NEW, NEW)
    async with running(fakes) as run:
        assert isinstance(await run.phase(4), PhaseMeasured)


async def test_mcpkeep_leaving_during_an_upgrade_that_nobody_leads_takes_it_back_whole() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        reached, go = fakes.hold("live.call")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.ask, RUN)
            await reached.wait()
            assert fakes.installed == NEW
            go.set()
            fakes.held.clear()
            run.actor.stop()
            await run.actor.stopped()
    assert (fakes.installed, fakes.running, fakes.lock_, fakes.open_sessions) == (OLD, OLD, None, [])


# What fails


UNTOUCHED = [
    "sources.inspect",
    "targets.inspect",
    "contents.plan",
    "lock.acquire",
    "journals.begin",
    "installer.adopt",
    "backups.create",
    "backups.verify",
    "sources.export_code",
    "installer.make",
    "installer.post_install",
    "journals.append phase_done",
    "contents.fill_staging",
    "contents.apply",
    "records.stage",
    "contents.stale",
    "live.tools",
    "candidates.prove",
    "contents.unindexed",
    "contents.verify_staged",
    "contents.expected",
    "changes.prepare_first",
    "changes.swap_first",
    "changes.prepare_rest",
    "changes.swap_rest",
    "records.write_validation",
    "validation.measure",
    "changes.look_after",
    "live.call",
]


@pytest.mark.parametrize("name", UNTOUCHED)
async def test_whatever_fails_before_the_end_the_old_version_stands_and_nothing_is_left(name: str) -> None:
    fakes = FakeWorld()
    fakes.failing[name] = broken()
    async with running(fakes) as run:
        answer = await run.ask(RUN)
        assert isinstance(answer, Refused | UpgradeFault), answer
        assert ("the disk is full" in answer.reason, answer.remedy != "") == (True, True)
        require_untouched(fakes)
        assert fakes.probation is None
        fakes.failing.clear()
        assert isinstance(await run.ask(RUN), UpgradeDone)


@pytest.mark.parametrize(
    "name",
    [
        "contents.renew_baseline",
        "changes.prune",
        "records.write_records",
        "records.write_summary",
        "records.log_line",
        "changes.settle",
    ],
)
async def test_what_fails_in_the_last_phase_is_told_and_the_new_version_stays(name: str) -> None:
    fakes = FakeWorld()
    fakes.failing[name] = broken()
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, UpgradeDone), answer
    assert (fakes.installed, fakes.running, fakes.lock_, fakes.open_sessions) == (NEW, NEW, None, [])


async def test_records_that_an_agent_could_not_have_written_can_be_tried_again() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(4)
        fakes.failing["records.write_summary"] = broken()
        refused = await run.phase(5)
        assert isinstance(refused, Refused) and refused.reason == "the disk is full"
        assert (fakes.installed, fakes.open_sessions) == (NEW, ["led"])
        fakes.failing.clear()
        assert isinstance(await run.phase(5), PhaseMeasured)
    assert (fakes.lock_, fakes.open_sessions) == (None, [])


async def test_a_failing_way_back_is_told_as_such_and_can_be_tried_again() -> None:
    fakes = FakeWorld()
    fakes.failing |= {"live.call": broken("it does not search"), "changes.plan_first": broken("gone")}
    async with running(fakes) as run:
        answer = await run.ask(RUN)
        assert isinstance(answer, UpgradeFault)
        told = f"the rollback failed: gone; release {NEW} stands"
        assert (answer.state, answer.reason) == ("rollback_failed", told)
        assert (fakes.running, fakes.open_sessions) == (NEW, ["id-1"])
        fakes.failing.clear()
        assert isinstance(await run.ask(RollBack(None, "test")), RolledBack)
    assert (fakes.running, fakes.lock_, fakes.open_sessions) == (OLD, None, [])


async def test_a_failed_validation_of_an_agents_upgrade_rolls_back_and_marks_the_session() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(3)
        fakes.failing["live.call"] = broken("it does not search")
        answer = await run.phase(4)
    assert isinstance(answer, UpgradeFault)
    assert (answer.state, answer.phase) == ("rolled_back", 4)
    assert run.marked == [("led", f"phase 4 failed after the commit: {answer.reason}")]
    assert (fakes.installed, fakes.running, fakes.lock_, fakes.open_sessions) == (OLD, OLD, None, [])


async def test_every_reason_not_to_upgrade_is_told_at_once() -> None:
    fakes = FakeWorld()
    fakes.source = fakes.source.__class__(
        "/source", problems=(Problem("it is dirty", "commit"), Problem("it is shallow", "fetch"))
    )
    fakes.target_problems = (Problem("no room", "free space"),)
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, Refused)
    assert answer.reason == "it is dirty; it is shallow; no room"
    assert answer.remedy == "commit; fetch; free space"


async def test_room_for_a_venv_is_asked_for_only_where_the_server_is_upgraded() -> None:
    fakes = FakeWorld()
    fakes.free = 2 * 10**6
    async with running(fakes) as run:
        answer = await run.ask(RUN)
        assert isinstance(answer, Refused)
        assert answer.reason == (
            "not enough disk space: 3.0 MB needed (2.0 MB of it for a new venv), 2.0 MB free"
        )
        content = UpgradeOptions("/source", content_only=True)
        done = await run.ask(RunUpgrade(content, by="test"))
        assert isinstance(done, UpgradeDone)
        assert done.evidence["0"]["disk_space_required"] == "1.0 MB"


@pytest.mark.parametrize("what", ["backup", "verification", "install"])
async def test_what_a_part_refuses_is_told_with_its_remedy(what: str) -> None:
    fakes = FakeWorld()
    if what == "backup":
        fakes.backup_refusal = BackupRefused("no room", "free space")
    elif what == "install":
        fakes.install_refusal = InstallRefused("no such package", "mend it", ("uv: nope",))
    else:
        fakes.damaged_backup = ("a.md",)
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, UpgradeFault)
    assert (answer.phase, answer.state, bool(answer.remedy)) == (1, "unchanged", True)
    require_untouched(fakes)


async def test_a_proof_that_fails_names_the_test_and_the_new_server_never_serves() -> None:
    fakes = FakeWorld()
    failed = SmokeResult("rag_search_test", "search_standards", "failed", "grep_fallback")
    fakes.proof = proof_of({"search_standards": "s"}, failed)
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, UpgradeFault)
    assert (answer.phase, answer.state) == (3, "unchanged")
    assert "grep_fallback" in answer.reason
    require_untouched(fakes)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            FileNotFoundError(2, "gone", "/w"),
            "if the workspace was moved or removed, restart mcpkeep where it is now; else "
            "mend that, and try again",
        ),
        (PermissionError(13, "gone", "/w"), "mend that, and try again"),
    ],
)
async def test_a_file_that_is_not_there_makes_us_ask_for_the_workspace(error: OSError, remedy: str) -> None:
    fakes = FakeWorld()
    fakes.failing["contents.apply"] = error
    async with running(fakes) as run:
        assert await run.ask(RUN) == Refused("the system refused it: gone ('/w')", remedy)


async def test_a_part_that_breaks_by_a_bug_of_its_own_ends_the_work_clean() -> None:
    fakes = FakeWorld()
    fakes.failing["contents.apply"] = RuntimeError("a bug")
    async with running(fakes) as run:
        answer = await run.ask(RUN)
        assert isinstance(answer, Refused)
        assert answer.reason == "mcpkeep failed: RuntimeError: a bug"
        assert [str(bug) for bug in run.bugs] == ["a bug"]
        require_untouched(fakes)
        fakes.failing.clear()
        assert isinstance(await run.ask(RUN), UpgradeDone)


# Conflicts


async def test_conflicts_wait_for_their_decisions_with_nothing_changed() -> None:
    fakes = FakeWorld()
    fakes.cases[CONFLICT] = Case.CONFLICT
    async with running(fakes) as run:
        waits = await run.ask(RUN)
        assert waits == ConflictsUndecided("plan-1", {CONFLICT: "-a\n+b\n"})
        require_untouched(fakes)
        resolved = await run.ask(ResolveConflicts("plan-1", {"standards/*": Choice.KEEP}, by="me"))
        assert resolved == Resolved("plan-1", (CONFLICT,), ())
        assert isinstance(await run.ask(RUN), UpgradeDone)


async def test_an_agents_phase_2_waits_with_lock_and_staging_and_goes_on_once_decided() -> None:
    fakes = FakeWorld()
    fakes.cases[CONFLICT] = Case.CONFLICT
    async with running(fakes) as run:
        await run.phases(1)
        waits = await run.phase(2)
        assert isinstance(waits, ConflictsUndecided)
        assert (fakes.open_sessions, fakes.lock_ is not None) == (["led"], True)
        assert isinstance(
            await run.ask(ResolveConflicts("plan-1", {CONFLICT: Choice.TAKE}, by="me")), Resolved
        )
        assert isinstance(await run.phase(2), PhaseMeasured)


async def test_decisions_for_a_plan_outlast_a_restart() -> None:
    fakes = FakeWorld()
    fakes.cases[CONFLICT] = Case.CONFLICT
    async with running(fakes) as run:
        await run.phases(1)
        assert isinstance(await run.phase(2), ConflictsUndecided)
    async with running(fakes) as run:
        resolved = await run.ask(ResolveConflicts("plan-1", {CONFLICT: Choice.KEEP}, by="me"))
        refused = await run.ask(ResolveConflicts("plan-9", {CONFLICT: Choice.KEEP}, by="me"))
    assert isinstance(resolved, Resolved)
    assert isinstance(refused, Refused) and "'plan-9'" in refused.reason


async def test_conflicts_are_decided_by_default_where_that_was_asked_for() -> None:
    fakes = FakeWorld()
    fakes.cases[CONFLICT] = Case.CONFLICT
    async with running(fakes) as run:
        done = await run.ask(RunUpgrade(UpgradeOptions("/source", on_conflict="keep"), by="test"))
    assert isinstance(done, UpgradeDone)
    actual = cast("dict[str, Any]", done.evidence["2"]["actual_upgrade"])
    assert (actual["conflicts_resolved"], actual["user_prompts"]) == (1, 0)


async def test_a_plan_that_is_another_by_now_is_refused() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        answer = await run.ask(RunUpgrade(OPTIONS, by="test", plan_id="plan-0"))
    assert isinstance(answer, Refused) and "'plan-0' is stale" in answer.reason
    require_untouched(fakes)


async def test_a_part_that_takes_too_long_is_no_bug_of_mcpkeeps() -> None:
    fakes = FakeWorld()
    fakes.failing["backups.create"] = AskTimedOut("backup", 3600.0)
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, Refused) and "3600 s" in answer.reason and "disk" in answer.remedy
    assert run.bugs == []


async def test_files_that_changed_since_the_merge_fail_phase_3_before_anything_live_is_touched() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(2)
        fakes.stale = ("a.md",)
        answer = await run.phase(3)
        assert isinstance(answer, Refused) and "a.md" in answer.reason
        assert "candidates.prove" not in fakes.log
        fakes.stale = ()
        assert await run.ask(UndoPhases("led", 2)) == Undone(2)
        assert isinstance(await run.phase(3), PhaseMeasured)


async def test_a_source_that_moved_on_sends_back_to_the_phase_that_takes_its_commit() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(2)
        fakes.stale = ("source",)
        answer = await run.phase(3)
    assert isinstance(answer, Refused) and "phase 1" in answer.remedy


@pytest.mark.parametrize("which", ["unindexed", "altered"])
async def test_what_changed_while_the_new_server_was_proven_stops_the_commit(which: str) -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(2)
        setattr(fakes, which, ("standards/development/x.md",))
        answer = await run.phase(3)
        assert isinstance(answer, Refused) and "standards/development/x.md" in answer.reason
        assert "changes.prepare_first" not in fakes.log
        setattr(fakes, which, ())
        assert isinstance(await run.phase(3), PhaseMeasured)


EDITS = (
    LateEdit("standards/universal/a.md", "merged", ".mcpkeep/changes/s/old/standards/universal/a.md"),
    LateEdit("standards/universal/b.md", "apart", ".mcpkeep/conflicts/s/late/standards/universal/b.md"),
    LateEdit("mcp_server/tools.py", "newest"),
)


async def test_what_was_saved_meanwhile_is_told_and_its_baseline_is_not_renewed() -> None:
    fakes = FakeWorld()
    fakes.standing = Standing((), EDITS)
    async with running(fakes) as run:
        done = await run.ask(RUN)
    assert isinstance(done, UpgradeDone), done
    assert done.late == tell_edits(EDITS)
    assert "; standards/universal/b.md was changed by you meanwhile: yours stands;" in tell_answer(done)
    assert fakes.lacking == ("standards/universal/b.md",)
    assert "`standards/universal/b.md`: yours stands" in fakes.summary


async def test_an_agent_is_told_in_the_last_phase_what_was_saved_meanwhile() -> None:
    fakes = FakeWorld()
    fakes.standing = Standing((), EDITS)
    async with running(fakes) as run:
        await run.phases(5)
    said = [notify.text for notify in run.told]
    told = [f"phase 5 of an upgrade: {line}" for line in tell_edits(EDITS)]
    assert [line for line in said if "meanwhile" in line] == told


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (Standing((), (LateEdit("mcp_server/tools.py", "apart", "x"),)), "from its former text: mcp_server"),
        (Standing(("standards/universal/a.md",)), "not what was planned: standards/universal/a.md"),
    ],
)
async def test_code_of_both_versions_and_damage_roll_an_upgrade_back(standing: Standing, said: str) -> None:
    fakes = FakeWorld()
    fakes.standing = standing
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, UpgradeFault) and said in answer.reason, answer
    assert answer.state == "rolled_back"


async def test_damage_after_the_validation_is_told_and_its_baseline_is_not_renewed() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(4)
        fakes.standing = Standing(("a.md",))
        assert isinstance(await run.phase(5), PhaseMeasured)
    assert fakes.lacking == ("a.md",)
    assert "a.md is not as it was installed" in fakes.summary


async def test_a_server_that_is_down_when_it_is_to_be_validated_is_started_and_serves() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(3)
        fakes.crash()
        assert isinstance(await run.phase(4), PhaseMeasured)
    assert (fakes.running, fakes.started) == (NEW, None)


async def test_one_that_was_started_to_be_validated_and_fails_is_rolled_back() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(3)
        fakes.crash()
        fakes.failing["validation.measure"] = broken()
        answer = await run.phase(4)
        assert isinstance(answer, UpgradeFault) and answer.state == "rolled_back", answer
    assert (fakes.installed, fakes.running) == (OLD, OLD)


# The way back


async def test_a_rollback_after_an_upgrade_brings_the_former_release_back_and_ends_probation() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        done = await run.ask(RUN)
        assert isinstance(done, UpgradeDone)
        back = await run.ask(RollBack(None, "test"))
    assert isinstance(back, RolledBack), back
    assert (back.from_release, back.to_release) == (NEW, OLD)
    assert (fakes.installed, fakes.running, fakes.probation) == (OLD, OLD, None)
    assert run.marked == [(done.session_id, "rolled back to adopted (test)")]
    assert (fakes.lock_, fakes.staging, fakes.open_sessions) == (None, set(), [])


async def test_a_rollback_whose_records_cannot_be_written_stands_and_says_so() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        fakes.failing["records.record_rollback"] = broken()
        back = await run.ask(RollBack(None, "test"))
    assert isinstance(back, RolledBack), back
    assert "the records could not be written: the disk is full" in back.warnings
    assert (fakes.installed, fakes.running, fakes.lock_, fakes.open_sessions) == (OLD, OLD, None, [])


async def test_with_nothing_to_go_back_to_a_rollback_says_so_and_writes_nothing() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        answer = await run.ask(RollBack(None, "test"))
    assert isinstance(answer, Refused)
    assert answer.reason == "there is nothing to go back to: no upgrade was made here yet"
    told = [name for name in fakes.log if name.startswith(("records", "lock", "journals"))]
    assert told == ["lock.acquire", "lock.release"]
    require_untouched(fakes)


@pytest.mark.parametrize(
    "name",
    [
        "changes.plan_first",
        "changes.prepare_first",
        "changes.plan_rest",
        "changes.prepare_rest",
        "live.start",
        "live.promote",
    ],
)
async def test_a_rollback_that_fails_leaves_the_version_that_served(name: str) -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        fakes.failing[name] = broken()
        answer = await run.ask(RollBack(None, "test"))
        assert isinstance(answer, UpgradeFault) and answer.state == "rollback_failed"
        assert (fakes.installed, fakes.running, fakes.lock_) == (NEW, NEW, None)
        assert (fakes.staging, fakes.open_sessions) == (set(), [])
        fakes.failing.clear()
        assert isinstance(await run.ask(RollBack(None, "test")), RolledBack)


async def test_an_upgrade_without_room_for_spare_copies_is_done_and_its_journal_says_so() -> None:
    fakes = FakeWorld()
    fakes.failing["changes.keep_spares"] = broken("no room")
    async with running(fakes) as run:
        done = await run.ask(RUN)
    assert isinstance(done, UpgradeDone)
    state = fakes.state(done.session_id)
    assert state is not None
    assert "no spare copies were made" in str(state.phases[5].products["warnings"])


async def test_a_rollback_that_cannot_be_taken_back_stays_open_for_the_next_start() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        fakes.failing |= {"live.start": broken(), "changes.undo": broken("the disk is gone")}
        answer = await run.ask(RollBack(None, "test"))
    assert isinstance(answer, UpgradeFault) and answer.state == "rollback_failed"
    assert (len(fakes.open_sessions), len(fakes.staging)) == (1, 1)


async def test_a_rollback_gives_up_an_agents_upgrade_that_is_open_and_not_committed() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(2)
        assert await run.ask(RollBack(None, "test")) == Aborted(("led",))
    require_untouched(fakes)


async def test_a_rollback_takes_back_an_agents_upgrade_that_is_open_and_committed() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(4)
        back = await run.ask(RollBack(None, "test"))
    assert isinstance(back, RolledBack)
    assert run.marked == [("led", "rolled back to adopted (test)")]
    assert (fakes.installed, fakes.lock_, fakes.open_sessions) == (OLD, None, [])


async def test_giving_up_names_what_was_open() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        await run.phases(1)
        assert await run.ask(AbortUpgrade("test", "other")) == Aborted(())
        assert await run.ask(AbortUpgrade("test")) == Aborted(("led",))
        assert run.actor.holds("led") is None
    require_untouched(fakes)


# Probation


async def test_each_step_is_told_to_the_log_once_and_the_lines_within_it_are_not() -> None:
    fakes = FakeWorld()
    steps: list[str] = []
    async with running(fakes) as run:
        with run.actor.listen(lambda _, name: steps.append(name)):
            assert isinstance(await run.ask(RUN), UpgradeDone)
            run.actor.step("Collecting mcp")
    told = [told.text.removeprefix("an upgrade: ") for told in run.told if told.level == "info"]
    assert steps[-1] == "Collecting mcp"
    assert told[: len(steps) - 1] == [name for name, _ in itertools.groupby(steps[:-1])]


async def test_three_crashes_in_probation_roll_back_and_those_of_other_releases_do_not_count() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        for release in (OLD, NEW, None, NEW, OLD):
            run.actor.tell(ServerCrashed(release, "exit 1"))
        await run.ask(GetUpgradeStatus())
        assert fakes.installed == NEW
        run.actor.tell(ServerCrashed(NEW, "exit 1"))
        with anyio.fail_after(LIMIT):
            while fakes.probation is not None:
                await anyio.lowlevel.checkpoint()
    assert (fakes.installed, fakes.running) == (OLD, OLD)
    assert [told.level for told in run.told if told.level != "info"] == ["error", "warning"]


async def test_a_crash_loop_after_a_change_of_content_alone_takes_the_content_back() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        done = await run.ask(RunUpgrade(UpgradeOptions("/source", content_only=True), by="test"))
        assert isinstance(done, UpgradeDone)
        for _ in range(3):
            run.actor.tell(ServerCrashed(OLD, "exit 1"))
        with anyio.fail_after(LIMIT):
            while fakes.probation is not None:
                await anyio.lowlevel.checkpoint()
    assert fakes.changes_[-1].kind == "rollback"


async def test_after_its_probation_a_release_is_not_taken_back_and_the_former_is_ended() -> None:
    fakes = FakeWorld()
    async with running(fakes, UpgradeSettings(probation=0.0)) as run:
        assert isinstance(await run.ask(RUN), UpgradeDone)
        with anyio.fail_after(LIMIT):
            while fakes.freezing is not None:
                await anyio.lowlevel.checkpoint()
        for _ in range(3):
            run.actor.tell(ServerCrashed(NEW, "exit 1"))
        await run.ask(GetUpgradeStatus())
    assert (fakes.installed, fakes.probation) == (NEW, None)


async def test_a_probation_from_before_a_restart_still_holds() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        done = await run.ask(RUN)
    assert isinstance(done, UpgradeDone)
    probation = fakes.probation
    async with running(fakes, probation=probation) as run:
        status = await run.ask(GetUpgradeStatus())
    assert isinstance(status, UpgradeStatus)
    assert status.probation == {"release": NEW, "former": OLD, "seconds_left": 600}


def test_the_first_record_of_a_led_upgrade_says_how_it_was_asked_for() -> None:
    """By `Begun.options` a session is planned again after a restart."""

    async def lead() -> FakeWorld:
        fakes = FakeWorld()
        async with running(fakes) as run:
            await run.phases(1, content_only=True)
        return fakes

    begun = anyio.run(lead).journals_["led"][0]
    assert isinstance(begun, Begun)
    assert (begun.agent_led, begun.options["content_only"]) == (True, True)


async def test_options_that_cannot_be_used_are_refused_before_anything_is_done() -> None:
    fakes = FakeWorld()
    async with running(fakes) as run:
        answer = await run.ask(RunPhase("led", 1, {"content_only": True}))
        both = await run.phase(1, content_only=True, server_only=True)
    assert isinstance(answer, Refused) and "source_path" in answer.reason + answer.remedy
    assert isinstance(both, Refused)
    assert fakes.log == []


async def test_a_commit_that_cannot_be_taken_back_keeps_its_journal_open_for_the_next_start() -> None:
    fakes = FakeWorld()
    fakes.failing |= {"changes.swap_rest": broken(), "changes.undo": broken("nor can it be undone")}
    async with running(fakes) as run:
        answer = await run.ask(RUN)
    assert isinstance(answer, UpgradeFault)
    assert (answer.state, answer.phase) == ("rollback_failed", 3)
    assert (fakes.open_sessions, fakes.prepared, fakes.started) == (["id-1"], {"id-1"}, None)
    assert fakes.lock_ is not None
