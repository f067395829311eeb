"""Phases that mcpkeep runs itself, each in a task of its own that outlasts the calls which wait for it.

A call waits ATTACH_LIMIT and is then told how far it is; the same call attaches again. A call that is
cancelled ends its waiting, never the phase; only `abort` does that.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.workflow.refusal import ClaimRefused, EvidenceRefused, Refusal, StateConflict
from mcpkeep.protocol.workflow.session import Session

__all__ = [
    "ATTACH_LIMIT",
    "Conclude",
    "InProgress",
    "Outcome",
    "PhaseFailed",
    "PhaseRunner",
    "PhaseRuns",
    "PhaseWaits",
]

ATTACH_LIMIT = 45.0
"""Seconds that one call waits: the TypeScript client gives a call up after 60."""
RETRY_AFTER = 5
"""Seconds after which to attach again; the call then waits by itself."""

Members: TypeAlias = Mapping[str, object]


class PhaseFailed(McpkeepError):
    """A phase that mcpkeep runs did not succeed; the session fails with it."""

    def __init__(self, text: str, *, remediation: str, details: Members | None = None) -> None:
        super().__init__(text)
        self.remediation = remediation
        self.details = details or {}


class PhaseWaits(StateConflict):
    """A phase that mcpkeep runs cannot go on before somebody decides; the session stays as it is."""


class PhaseRunner(Protocol):
    """Runs the phases of one workflow type."""

    async def run(
        self, session: Session, phase: int, evidence: Members, report: Callable[[str], None]
    ) -> Members:
        """Do the phase, and answer the evidence that was measured; `report` takes the name of each step.

        Cancelled by an abort. Raises PhaseFailed, or PhaseWaits.
        """
        ...

    async def undo(self, session: Session, to_phase: int) -> None:
        """Undo what the phases from `to_phase` on did to the world. Raises PhaseFailed."""
        ...

    def holds(self, session: Session) -> str | None:
        """Why the session must not be deleted now; None where it may."""
        ...


Outcome: TypeAlias = "Mapping[str, object] | PhaseFailed"
"""What a run came to: the measured evidence, or how it failed."""

Conclude: TypeAlias = Callable[[Outcome], Awaitable[Members]]
"""Makes the outcome of a run part of the session, and gives the answer. May raise a Refusal."""


class InProgress(msgspec.Struct, frozen=True):
    """The phase still runs."""

    step: str
    retry_after_seconds: int


class _Run:
    def __init__(self, phase: int, conclude: Conclude) -> None:
        self.phase = phase
        self.conclude = conclude
        self.step = "starting"
        self.steps = 0
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.outcome: Outcome | None = None
        self.answer: Members | None = None
        self.refusal: Refusal | None = None
        self.told = False
        """Whether somebody was given the refusal."""
        self.listeners: list[Callable[[int, str], None]] = []

    def report(self, step: str) -> None:
        self.step = step
        self.steps += 1
        for listener in self.listeners:
            listener(self.steps, step)

    @property
    def over(self) -> bool:
        """Whether the next call begins anew: the gate refused what was measured, or nothing was."""
        refused = isinstance(self.refusal, EvidenceRefused) and not isinstance(self.refusal, ClaimRefused)
        return self.told and (refused or self.outcome is None)

    async def settle(self, conclude: Conclude) -> None:
        """Make the outcome part of the session; a pause, a full disk or a false claim leaves it for later."""
        assert self.outcome is not None
        self.told = False
        try:
            self.answer = await conclude(self.outcome)
        except Refusal as refusal:
            self.refusal = refusal


class PhaseRuns:
    """The registry of runners by workflow type, and the runs that are under way, one for a session."""

    def __init__(
        self, runners: Mapping[str, PhaseRunner], *, on_bug: Callable[[str, Exception], str]
    ) -> None:
        """`on_bug` logs an unexpected error of the named runner, and says where it can be read."""
        self._runners = runners
        self._on_bug = on_bug
        self._runs: dict[str, _Run] = {}
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be where the runs live, until cancelled, which ends them."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def runner(self, workflow_type: str) -> PhaseRunner | None:
        """Who runs the phases of this workflow; None where the agent does the work."""
        return self._runners.get(workflow_type)

    def has(self, session_id: str) -> bool:
        """Whether a run of this session is under way, or has an outcome that is not settled yet."""
        run = self._runs.get(session_id)
        return run is not None and not run.over

    async def attach(
        self,
        session: Session,
        phase: int,
        *,
        evidence: Members,
        conclude: Conclude,
        listen: Callable[[int, str], None],
    ) -> Members | InProgress:
        """Begin the phase, or attach to the run that is under way, and wait for its answer.

        Raises:
            StateConflict: another phase of the session runs.
            Refusal: what `conclude` raised; the outcome is kept for the next call.
        """
        key = session.session_id
        run = self._runs.get(key)
        if run is None or run.over:
            runner = self._runners[session.workflow_type]
            run = self._runs[key] = _Run(phase, conclude)
            assert self._tasks is not None, "attach() needs run()"
            self._tasks.start_soon(self._perform, run, runner, session, evidence)
        elif run.phase != phase:
            raise StateConflict(
                f"phase {run.phase} of the session is running: {run.step}",
                f"call complete_phase for phase {run.phase} to wait for it, or rollback to abort it",
            )
        elif run.ended.is_set() and run.answer is None and run.told:
            await run.settle(conclude)
        run.listeners.append(listen)
        try:
            with anyio.move_on_after(ATTACH_LIMIT):
                await run.ended.wait()
        finally:
            run.listeners.remove(listen)
        if not run.ended.is_set():
            return InProgress(run.step, RETRY_AFTER)
        if run.answer is not None:
            self._drop(key, run)
            return run.answer
        assert run.refusal is not None
        run.told = True
        raise run.refusal

    def require_idle(self, session_id: str) -> None:
        """Raise StateConflict while a phase of the session runs; what an ended run left is dropped."""
        run = self._runs.get(session_id)
        if run is not None and not run.ended.is_set():
            raise StateConflict(
                f"phase {run.phase} of the session is running: {run.step}",
                "wait for it with complete_phase, or abort it with rollback",
            )
        self._runs.pop(session_id, None)

    async def settled(self) -> None:
        """Wait until every outcome there is has become part of its session, or was refused."""
        for run in list(self._runs.values()):
            if run.outcome is not None:
                await run.ended.wait()

    async def abort(self, session_id: str) -> None:
        """End the run of this session, if there is one, and wait until it has ended."""
        run = self._runs.get(session_id)
        if run is not None:
            run.scope.cancel()
            await run.ended.wait()
            self._drop(session_id, run)

    def _drop(self, session_id: str, run: _Run) -> None:
        if self._runs.get(session_id) is run:
            del self._runs[session_id]

    async def _perform(self, run: _Run, runner: PhaseRunner, session: Session, evidence: Members) -> None:
        try:
            with run.scope:
                try:
                    run.outcome = await runner.run(session, run.phase, evidence, run.report)
                except PhaseFailed as failed:
                    run.outcome = failed
                except PhaseWaits as waits:
                    run.refusal = waits
                except Exception as error:
                    place = self._on_bug(session.workflow_type, error)
                    run.outcome = PhaseFailed(
                        f"mcpkeep failed in this phase: {type(error).__name__}",
                        remediation=f"this is a bug in mcpkeep; the details are in {place}",
                    )
            if run.outcome is not None:
                await run.settle(run.conclude)
            elif run.refusal is None:
                run.refusal = StateConflict("the phase was aborted by a rollback", "see get_state")
        finally:
            run.ended.set()
