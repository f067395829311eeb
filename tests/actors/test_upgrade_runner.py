"""The upgrade workflow in an agent's hands: the workflow tool, its runner, and the upgrade actor together."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, cast

import anyio
import msgspec
import pytest
from msgspec import Raw

from mcpkeep.actors.phase_runs import PhaseRuns
from mcpkeep.actors.session import SessionActor
from mcpkeep.actors.upgrade import UpgradeActor
from mcpkeep.actors.upgrade_runner import WORKFLOW_TYPE, UpgradeRunner
from mcpkeep.actors.workflow_tool import WorkflowTool
from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeSettings
from mcpkeep.protocol.upgrade.plan import Case, Choice
from mcpkeep.protocol.upgrade.request import ResolveConflicts, Resolved, UpgradeAnswer, UpgradeMessage
from mcpkeep.protocol.workflow.definition import Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.gate import parse_gate
from tests.actors.one_workflow import Memory, OneWorkflow
from tests.upgrade_fakes import CONFLICT, NEW, OLD, FakeWorld, broken

Answer = dict[str, Any]

pytestmark = pytest.mark.anyio

_SHIPPED = files("mcpkeep.supervisor") / "workflows" / WORKFLOW_TYPE / "phases"
WORKFLOW = WorkflowDefinition(
    workflow_type=WORKFLOW_TYPE,
    name="Upgrade",
    description="",
    version="1",
    category="test",
    estimated_duration="",
    phases=tuple(
        Phase(
            number=n,
            name=f"P{n}",
            content=f"# P{n}\n\n1. Do\n",
            gate=parse_gate((_SHIPPED / str(n) / "gate-definition.yaml").read_bytes()),
        )
        for n in range(6)
    ),
)
LIMIT = 5.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Led:
    """The tool, and a session at phase 0."""

    def __init__(self, fakes: FakeWorld) -> None:
        self.fakes = fakes
        self.steps: list[str] = []
        self.session_id = ""
        self.marked: list[str] = []
        self.gone: UpgradeFailed | None = None
        world = fakes.world()

        async def mark(session_id: str, reason: str) -> None:
            self.marked.append(session_id)

        self.actor = UpgradeActor(
            world, UpgradeSettings(), notify=lambda _: None, mark_rolled_back=mark, on_bug=str
        )
        runner = UpgradeRunner(self.ask, lock_owner=world.lock.owner)
        self.runs = PhaseRuns({WORKFLOW_TYPE: runner}, on_bug=lambda _, error: str(error))
        sessions = SessionActor(
            store=Memory(),
            now=lambda: datetime.now(UTC),
            new_id=lambda: "0" * 8 + "-6a1c-4c59-9d0b-1f2e3d4c5b6a",
        )
        self.tool = WorkflowTool(sessions=sessions, catalog=OneWorkflow(WORKFLOW), runs=self.runs)

    async def ask(self, question: UpgradeMessage, on_step: Callable[[str, str], None]) -> UpgradeAnswer:
        if self.gone is not None:
            raise self.gone
        with self.actor.listen(on_step):
            return await self.actor.ask(cast("Question[UpgradeAnswer]", question), within=LIMIT)

    async def call(self, action: str, **arguments: object) -> Answer:
        data = msgspec.json.encode({"action": action, **arguments})
        result = await self.tool.call(Raw(data), lambda _done, _total, text: self.steps.append(text))
        answer: Answer = msgspec.json.decode(result.structured)
        return answer

    async def on(self, action: str, **arguments: object) -> Answer:
        return await self.call(action, session_id=self.session_id, **arguments)

    async def complete(self, phase: int, **evidence: object) -> Answer:
        return await self.on("complete_phase", phase=phase, evidence=evidence)

    async def complete_all(self, last: int) -> None:
        for phase in range(last + 1):
            answer = await self.complete(phase)
            assert answer["status"] == "success", answer

    async def status(self) -> str:
        status: str = (await self.on("get_state"))["session_status"]
        return status


@asynccontextmanager
async def led() -> AsyncGenerator[Led]:
    stage = Led(FakeWorld())
    async with anyio.create_task_group() as tasks:
        await tasks.start(stage.actor.run)
        await tasks.start(stage.runs.run)
        started = await stage.call(
            "start", workflow_type=WORKFLOW_TYPE, target_file=".", options={"source_path": "/source"}
        )
        stage.session_id = started["session_id"]
        yield stage
        tasks.cancel_scope.cancel()


async def test_six_phases_complete_the_session_and_their_steps_are_told() -> None:
    async with led() as stage:
        await stage.complete_all(5)
        assert await stage.status() == "completed"
        assert stage.fakes.installed == NEW
    assert {"making the backup", "merging", "starting the candidate", "writing the report"} <= set(
        stage.steps
    )


async def test_undecided_conflicts_leave_the_session_active_and_the_same_call_goes_on_once_decided() -> None:
    async with led() as stage:
        stage.fakes.cases[CONFLICT] = Case.CONFLICT
        await stage.complete_all(1)
        waits = await stage.complete(2)
        assert (waits["status"], waits["plan_id"], list(waits["conflicts"])) == (
            "error",
            "plan-1",
            [CONFLICT],
        )
        assert await stage.status() == "active"
        again = await stage.complete(2)
        assert again["conflicts"] == waits["conflicts"]
        decided = await stage.ask(
            ResolveConflicts("plan-1", {CONFLICT: Choice.KEEP}, by="me"), lambda _session, _step: None
        )
        assert isinstance(decided, Resolved)
        assert (await stage.complete(2))["status"] == "success"


async def test_an_agents_word_that_contradicts_what_was_measured_is_refused_and_named() -> None:
    async with led() as stage:
        answer = await stage.complete(0, source_git_clean=False)
        assert answer["status"] == "error"
        assert "source_git_clean" in msgspec.json.encode(answer).decode()
        assert (await stage.on("get_state"))["current_phase"] == 0
        assert (await stage.complete(0, source_git_clean=True))["status"] == "success"


async def test_a_phase_that_fails_fails_the_session_and_can_be_tried_again() -> None:
    async with led() as stage:
        await stage.complete_all(2)
        stage.fakes.failing["candidates.prove"] = broken("it does not start")
        answer = await stage.complete(3)
        assert (answer["status"], "it does not start" in answer["error"]) == ("error", True)
        assert "free space" in answer["remediation"]
        assert await stage.status() == "failed"
        stage.fakes.failing.clear()
        assert (await stage.on("retry_phase", phase=3))["status"] == "success"
        assert (await stage.complete(3))["status"] == "success"


async def test_a_return_to_phase_0_gives_up_lock_and_staging() -> None:
    async with led() as stage:
        await stage.complete_all(2)
        refused = await stage.on("delete_session")
        assert (refused["status"], "lock" in msgspec.json.encode(refused).decode()) == ("error", True)
        assert (await stage.on("rollback", to_phase=0))["status"] == "success"
        fakes = stage.fakes
        assert (fakes.lock_, fakes.staging, fakes.open_sessions, fakes.installed) == (None, set(), [], OLD)
        assert (await stage.on("delete_session"))["status"] == "success"


async def test_a_rollback_ends_the_phase_that_runs_and_waits_until_it_is_taken_back() -> None:
    async with led() as stage:
        await stage.complete_all(1)
        reached, _ = stage.fakes.hold("contents.apply")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.complete, 2)
            await reached.wait()
            assert (await stage.on("rollback", to_phase=1))["status"] == "success"
        del stage.fakes.held["contents.apply"]
        assert (stage.fakes.staging, (await stage.on("get_state"))["current_phase"]) == (set(), 1)
        await stage.complete(1)
        assert (await stage.complete(2))["status"] == "success"


async def test_where_nobody_answers_the_phase_fails_with_the_reason() -> None:
    async with led() as stage:
        stage.gone = broken("mcpkeep is leaving")
        answer = await stage.complete(0)
        assert (answer["status"], "mcpkeep is leaving" in answer["error"]) == ("error", True)


async def test_mcpkeep_leaving_in_the_middle_of_a_phase_leaves_the_session_active() -> None:
    async with led() as stage:
        await stage.complete_all(1)
        reached, _ = stage.fakes.hold("contents.apply")
        answers: list[Answer] = []

        async def complete() -> None:
            answers.append(await stage.complete(2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            await reached.wait()
            stage.actor.stop()
        assert (answers[0]["status"], "mcpkeep is leaving" in answers[0]["error"]) == ("error", True)
        assert await stage.status() == "active"
