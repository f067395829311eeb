"""Runs the phases of `praxis_os_upgrade_v1` for the workflow tool, by asking the upgrade actor."""

from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio

from mcpkeep.actors.phase_runs import Members, PhaseFailed, PhaseWaits
from mcpkeep.actors.upgrade_world import Answering
from mcpkeep.protocol.upgrade.failure import Interrupted, UpgradeFailed
from mcpkeep.protocol.upgrade.request import (
    LEAVING,
    CancelWork,
    ConflictsUndecided,
    PhaseMeasured,
    Refused,
    RunPhase,
    UndoPhases,
    UpgradeAnswer,
    UpgradeFault,
    UpgradeMessage,
)
from mcpkeep.protocol.workflow.session import Session

__all__ = ["WORKFLOW_TYPE", "UpgradeRunner"]

WORKFLOW_TYPE = "praxis_os_upgrade_v1"


class UpgradeRunner:
    """The `PhaseRunner` of the upgrade workflow."""

    def __init__(
        self, answering: Answering, *, lock_owner: Callable[[], Mapping[str, object] | None]
    ) -> None:
        """`answering` asks the upgrade actor, wherever it is; `lock_owner` reads the upgrade lock."""
        self._answering = answering
        self._lock_owner = lock_owner

    async def run(
        self, session: Session, phase: int, evidence: Members, report: Callable[[str], None]
    ) -> Members:
        """Do the phase, and answer the evidence that was measured. Raises PhaseFailed or PhaseWaits."""
        session_id = session.session_id

        def listen(of: str, step: str) -> None:
            if of == session_id:
                report(step)

        try:
            answer = await self._ask(RunPhase(session_id, phase, session.options), listen)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), suppress(PhaseFailed, PhaseWaits):
                await self._ask(CancelWork(session_id))
            raise
        match answer:
            case PhaseMeasured():
                return answer.evidence
            case ConflictsUndecided():
                raise PhaseWaits(
                    f"phase {phase} waits: {len(answer.conflicts)} files need a decision",
                    "decide them with the tool `mcpkeep`, action `resolve`, and make this call again",
                    plan_id=answer.plan_id,
                    conflicts=answer.conflicts,
                )
            case Refused() if answer == LEAVING:
                raise PhaseWaits(answer.reason, answer.remedy)
            case Refused() | UpgradeFault():
                raise PhaseFailed(answer.reason, remediation=answer.remedy, details=answer.details)
            case _:
                raise AssertionError(f"a phase was answered by {type(answer).__name__}")

    async def undo(self, session: Session, to_phase: int) -> None:
        """Undo what the phases from `to_phase` on did to the world. Raises PhaseFailed."""
        answer = await self._ask(UndoPhases(session.session_id, to_phase))
        if isinstance(answer, Refused | UpgradeFault):
            raise PhaseFailed(answer.reason, remediation=answer.remedy, details=answer.details)

    def holds(self, session: Session) -> str | None:
        """Why the session must not be deleted now; None where it may."""
        owner = self._lock_owner()
        holds = owner is not None and owner.get("session_id") == session.session_id
        return "it holds the upgrade lock" if holds else None

    async def _ask(
        self, question: UpgradeMessage, on_step: Callable[[str, str], None] = lambda _session, _step: None
    ) -> UpgradeAnswer:
        try:
            return await self._answering(question, on_step)
        except Interrupted as interrupted:
            raise PhaseWaits(str(interrupted), interrupted.remediation) from interrupted
        except UpgradeFailed as failed:
            raise PhaseFailed(str(failed), remediation=failed.remediation, details=failed.details) from failed
