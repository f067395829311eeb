"""Phases that mcpkeep runs: a call waits so long and attaches again; nothing but an abort ends the run."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from msgspec import Raw
from trio.testing import MockClock

from mcpkeep.actors.phase_runs import ATTACH_LIMIT, PhaseFailed, PhaseRuns
from mcpkeep.actors.session import SessionActor
from mcpkeep.actors.workflow_tool import WorkflowTool
from mcpkeep.protocol.workflow.definition import Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.gate import parse_gate
from mcpkeep.protocol.workflow.session import Session
from tests.actors.one_workflow import Memory, OneWorkflow

Answer = dict[str, Any]

GATE = parse_gate(
    b"checkpoint: {strict: true}\n"
    b"evidence_schema: {files: {type: integer, required: true, validator: some}}\n"
    b'validators: {some: "lambda n: n > 0"}\n'
)
WORKFLOW = WorkflowDefinition(
    workflow_type="run_by_mcpkeep",
    name="Run",
    description="",
    version="1",
    category="test",
    estimated_duration="",
    phases=tuple(Phase(number=n, name=f"P{n}", content=f"# P{n}\n\n1. Do\n", gate=GATE) for n in (0, 1)),
)

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[("asyncio", {}), ("trio", {"clock": MockClock(autojump_threshold=0.05)})], ids=["asyncio", "trio"]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class Runner:
    """A PhaseRunner whose phase ends when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, Mapping[str, object]]] = []
        self.aborted = 0
        self.undone: list[int] = []
        self.held: str | None = None
        self.outcome: Mapping[str, object] | Exception = {"files": 3}
        self.go_on = anyio.Event()
        self.report: Callable[[str], None] | None = None

    async def run(
        self,
        session: Session,
        phase: int,
        evidence: Mapping[str, object],
        report: Callable[[str], None],
    ) -> Mapping[str, object]:
        self.begun.append((phase, evidence))
        self.report = report
        report("copying")
        try:
            await self.go_on.wait()
        except anyio.get_cancelled_exc_class():
            self.aborted += 1
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def undo(self, session: Session, to_phase: int) -> None:
        self.undone.append(to_phase)

    def holds(self, session: Session) -> str | None:
        return self.held


class Stage:
    """The tool with its runner, and a session at phase 0."""

    def __init__(self) -> None:
        self.runner = Runner()
        self.disk = Memory()
        self.bugs: list[Exception] = []
        self.told: list[tuple[float, str]] = []
        ids = iter(f"{n:08x}-6a1c-4c59-9d0b-1f2e3d4c5b6a" for n in range(99))
        sessions = SessionActor(store=self.disk, now=lambda: datetime.now(UTC), new_id=lambda: next(ids))

        def on_bug(what: str, error: Exception) -> str:
            self.bugs.append(error)
            return "the log"

        self.runs = PhaseRuns({"run_by_mcpkeep": self.runner}, on_bug=on_bug)
        self.tool = WorkflowTool(sessions=sessions, catalog=OneWorkflow(WORKFLOW), runs=self.runs)
        self.session_id = ""

    async def call(self, action: str, **arguments: object) -> Answer:
        data = msgspec.json.encode({"action": action, **arguments})
        result = await self.tool.call(Raw(data), lambda done, total, text: self.told.append((done, text)))
        answer: Answer = msgspec.json.decode(result.structured)
        assert result.is_error == (answer["status"] == "error")
        return answer

    async def on(self, action: str, **arguments: object) -> Answer:
        return await self.call(action, session_id=self.session_id, **arguments)

    async def complete(self, phase: int = 0, **evidence: object) -> Answer:
        return await self.on("complete_phase", phase=phase, evidence=evidence)


@asynccontextmanager
async def staged() -> AsyncGenerator[Stage]:
    stage = Stage()
    async with anyio.create_task_group() as tasks:
        await tasks.start(stage.runs.run)
        started = await stage.call("start", workflow_type="run_by_mcpkeep", target_file=".")
        stage.session_id = started["session_id"]
        yield stage
        tasks.cancel_scope.cancel()


async def test_a_phase_that_ends_in_time_answers_with_what_was_measured() -> None:
    async with staged() as stage:
        stage.runner.go_on.set()
        answer = await stage.complete()
        assert (answer["checkpoint_passed"], answer["phase_completed"]) == (True, 0)
        assert (await stage.on("get_state"))["artifacts"] == {"phase_0": {"files": 3}}
        assert stage.runner.begun == [(0, {})]
        assert stage.told == [(1, "copying")]


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0.05)})], ids=["trio"]
)
async def test_a_longer_phase_answers_in_progress_and_the_same_call_attaches_again() -> None:
    async with staged() as stage:
        began = anyio.current_time()
        assert await stage.complete() == {
            "status": "success",
            "action": "complete_phase",
            "session_id": stage.session_id,
            "phase": 0,
            "in_progress": True,
            "step": "copying",
            "retry_after_seconds": 5,
        }
        assert ATTACH_LIMIT <= anyio.current_time() - began < 60
        assert stage.runner.report is not None
        stage.runner.report("verifying")
        assert (await stage.complete())["step"] == "verifying"
        stage.runner.go_on.set()
        assert (await stage.complete())["phase_completed"] == 0
        assert len(stage.runner.begun) == 1


async def test_a_cancelled_call_ends_its_waiting_and_not_the_phase() -> None:
    async with staged() as stage:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.complete)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert stage.runner.aborted == 0
        stage.runner.go_on.set()
        # The answer that nobody waited for comes, and so does the change.
        with anyio.fail_after(5):
            while (await stage.on("get_state"))["current_phase"] != 1:
                await anyio.lowlevel.checkpoint()
        assert (await stage.complete())["phase_completed"] == 0


async def test_two_calls_attach_to_one_run_and_get_one_answer() -> None:
    async with staged() as stage:
        answers: list[Answer] = []

        async def complete() -> None:
            answers.append(await stage.complete())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            tasks.start_soon(complete)
            await anyio.wait_all_tasks_blocked()
            stage.runner.go_on.set()
        assert answers[0] == answers[1] and answers[0]["checkpoint_passed"] is True
        assert len(stage.runner.begun) == 1


async def test_what_an_agent_claims_against_what_was_measured_is_refused_by_name() -> None:
    async with staged() as stage:
        stage.runner.go_on.set()
        answer = await stage.complete(files=400, note="mine")
        assert (answer["status"], answer["error_type"]) == ("error", "ValidationError")
        assert answer["validation_errors"] == ["field 'files': the evidence says 400, and mcpkeep measured 3"]
        assert (await stage.complete(files=3))["checkpoint_passed"] is True
        assert len(stage.runner.begun) == 1


async def test_what_was_measured_has_to_pass_the_gate_too() -> None:
    async with staged() as stage:
        stage.runner.outcome = {"files": 0}
        stage.runner.go_on.set()
        assert (await stage.complete())["checkpoint_passed"] is False
        assert (await stage.on("get_state"))["session_status"] == "active"
        stage.runner.outcome = {"files": 1}
        assert (await stage.complete())["checkpoint_passed"] is True
        assert len(stage.runner.begun) == 2


async def test_two_calls_that_wait_are_both_told_of_a_refusal() -> None:
    async with staged() as stage:
        answers: list[Answer] = []

        async def complete() -> None:
            answers.append(await stage.complete())

        stage.disk.full = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            tasks.start_soon(complete)
            await anyio.wait_all_tasks_blocked()
            stage.runner.go_on.set()
        assert [answer["error_type"] for answer in answers] == ["StorageError", "StorageError"]


async def test_a_phase_that_fails_sets_the_session_failed_and_can_be_tried_again() -> None:
    async with staged() as stage:
        stage.runner.outcome = PhaseFailed("no space left", remediation="free 2 GB", details={"free": 1})
        stage.runner.go_on.set()
        answer = await stage.complete()
        assert (answer["status"], answer["checkpoint_passed"], answer["remediation"]) == (
            "error",
            False,
            "free 2 GB",
        )
        assert answer["validation_errors"] == ["no space left"]
        assert (await stage.on("get_state"))["session_status"] == "failed"
        assert (await stage.complete())["error_type"] == "StateError"
        (error,) = (await stage.on("get_errors"))["errors"]
        assert (error["message"], error["details"]) == ("no space left", {"free": 1})
        assert (await stage.on("retry_phase", phase=0))["attempt"] == 2
        stage.runner.outcome = {"files": 3}
        assert (await stage.complete())["checkpoint_passed"] is True


async def test_a_bug_in_a_runner_fails_the_phase_and_takes_nothing_down() -> None:
    async with staged() as stage:
        stage.runner.outcome = ZeroDivisionError("oh")
        stage.runner.go_on.set()
        answer = await stage.complete()
        assert answer["validation_errors"] == ["mcpkeep failed in this phase: ZeroDivisionError"]
        assert answer["remediation"] == "this is a bug in mcpkeep; the details are in the log"
        assert [type(bug) for bug in stage.bugs] == [ZeroDivisionError]


async def test_a_rollback_aborts_the_run_and_undoes_before_the_session_moves() -> None:
    async with staged() as stage:
        answers: list[Answer] = []

        async def complete() -> None:
            answers.append(await stage.complete())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            await anyio.wait_all_tasks_blocked()
            answers.insert(0, await stage.on("rollback", to_phase=0))
        assert answers.pop(0)["rolled_back"] is True
        assert (stage.runner.aborted, stage.runner.undone) == (1, [0])
        assert [a["error_type"] for a in answers] == ["StateError"]
        state = await stage.on("get_state")
        assert (state["session_status"], state["current_phase"]) == ("active", 0)


async def test_while_a_phase_runs_no_other_is_begun_repeated_or_deleted() -> None:
    async with staged() as stage, anyio.create_task_group() as tasks:
        tasks.start_soon(stage.complete)
        await anyio.wait_all_tasks_blocked()
        for action, arguments in (
            ("retry_phase", {"phase": 0}),
            ("delete_session", {}),
            ("complete_phase", {"phase": 1, "evidence": {}}),
        ):
            answer = await stage.on(action, **arguments)
            assert answer["error_type"] == "StateError"
            assert answer["error"] == "phase 0 of the session is running: copying"
        assert (await stage.on("get_phase"))["current_phase"] == 0
        stage.runner.go_on.set()


async def test_a_result_that_cannot_be_saved_is_kept_for_the_next_call() -> None:
    async with staged() as stage:
        stage.disk.full = True
        stage.runner.go_on.set()
        assert (await stage.complete())["error_type"] == "StorageError"
        stage.disk.full = False
        assert (await stage.complete())["checkpoint_passed"] is True
        assert len(stage.runner.begun) == 1


async def test_a_phase_may_end_while_its_session_is_paused_and_counts_when_it_goes_on() -> None:
    async with staged() as stage:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.complete)
            await anyio.wait_all_tasks_blocked()
            assert (await stage.on("pause"))["paused"] is True
            stage.runner.go_on.set()
        assert (await stage.on("get_state"))["current_phase"] == 0
        await stage.on("resume")
        assert (await stage.complete())["checkpoint_passed"] is True
        assert len(stage.runner.begun) == 1


async def test_a_session_that_holds_something_is_not_deleted() -> None:
    async with staged() as stage:
        stage.runner.held = "it holds the upgrade lock"
        answer = await stage.on("delete_session")
        assert (answer["error_type"], answer["error"]) == (
            "StateError",
            "the session cannot be deleted: it holds the upgrade lock",
        )
        stage.runner.held = None
        assert (await stage.on("delete_session"))["deleted"] is True
