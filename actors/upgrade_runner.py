"""Runs the phases of `praxis_os_upgrade_v1` for the workflow tool, by asking the upgrade actor."""

from collections.abc import Callable

import anyio

from mcpkeep.actors.phase_runs import Members, PhaseFailed, PhaseWaits
from mcpkeep.actors.upgrade import UpgradeActor
from mcpkeep.protocol.upgrade.request import (
    CancelWork,
    ConflictsUndecided,
    PhaseMeasured,
    Refused,
    RunPhase,
    Undone,
    UndoPhases,
    UpgradeFault,
)
from mcpkeep.protocol.workflow.session import Session

__all__ = ["PHASE_LIMIT", "WORKFLOW_TYPE", "UpgradeRunner"]

WORKFLOW_TYPE = "praxis_os_upgrade_v1"

PHASE_LIMIT = 7200.0
"""Seconds for one phase: a download and an index build at the slowest, twice."""


class UpgradeRunner:
    """The `PhaseRunner` of the upgrade workflow."""

    def __init__(self, upgrade: UpgradeActor) -> None:
        self._upgrade = upgrade

    async def run(
        self, session: Session, phase: int, evidence: Members, report: Callable[[str], None]
    ) -> Members:
        """Do the phase, and answer the evidence that was measured. Raises PhaseFailed or PhaseWaits."""
        session_id = session.session_id

        def listen(of: str, step: str) -> None:
            if of == session_id:
                report(step)

        try:
            with self._upgrade.listen(listen):
                answer = await self._upgrade.ask(
                    RunPhase(session_id, phase, session.options), within=PHASE_LIMIT
                )
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._upgrade.ask(CancelWork(session_id), within=PHASE_LIMIT)
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
            case Refused() | UpgradeFault():
                raise PhaseFailed(answer.reason, remediation=answer.remedy, details=answer.details)

    async def undo(self, session: Session, to_phase: int) -> None:
        """Undo what the phases from `to_phase` on did to the world. Raises PhaseFailed."""
        answer = await self._upgrade.ask(UndoPhases(session.session_id, to_phase), within=PHASE_LIMIT)
        if not isinstance(answer, Undone):
            raise PhaseFailed(answer.reason, remediation=answer.remedy, details=answer.details)

    def holds(self, session: Session) -> str | None:
        """Why the session must not be deleted now; None where it may."""
        return self._upgrade.holds(session.session_id)
