"""What was asked and what it came to, in a few words for people who were not there."""

from mcpkeep.protocol.upgrade.request import (
    LEAVING,
    Aborted,
    AbortUpgrade,
    ConflictsUndecided,
    Refused,
    ResolveConflicts,
    RollBack,
    RolledBack,
    RunPhase,
    RunUpgrade,
    UndoPhases,
    UpgradeAnswer,
    UpgradeDone,
    UpgradeFault,
    UpgradeMessage,
    UpToDate,
)

__all__ = ["STATES", "tell_answer", "tell_question"]

STATES = {
    "unchanged": "nothing live has changed",
    "rolled_back": "the former version serves again",
    "rollback_failed": "the way back failed; what served goes on, and `mcpkeep report` has the last record",
}
"""What stands after a failure, by `UpgradeFault.state`."""


def tell_question(question: UpgradeMessage) -> str:
    """Such as `the upgrade`."""
    match question:
        case RunUpgrade():
            return "the upgrade"
        case RunPhase(phase=phase):
            return f"phase {phase} of the upgrade"
        case UndoPhases(to_phase=phase):
            return f"the return to phase {phase}"
        case RollBack():
            return "the rollback"
        case AbortUpgrade():
            return "giving the upgrade up"
        case ResolveConflicts():
            return "the decision of conflicts"
        case _:
            return "what was asked"


def tell_answer(answer: UpgradeAnswer) -> str:
    """Such as `succeeded`, or why not and what stands."""
    match answer:
        case Refused() if answer == LEAVING:
            return "was ended, for mcpkeep was leaving; nothing live has changed, so ask for it again"
        case Refused():
            return f"was refused: {answer.reason}; {answer.remedy}"
        case UpgradeFault():
            return f"failed: {answer.reason}; {STATES[answer.state]}; {answer.remedy}"
        case UpgradeDone():
            edits = "".join(f"; {line}" for line in answer.late)
            return (
                f"succeeded: {answer.from_version} to {answer.to_version}; the report is {answer.summary}"
                f"{edits}"
            )
        case UpToDate():
            return f"had nothing to do: {answer.version} is installed"
        case RolledBack():
            return f"succeeded: {answer.to_release} serves again"
        case Aborted():
            given_up = ", ".join(answer.sessions)
            return f"gave up what was under way: {given_up}" if given_up else "found nothing under way"
        case ConflictsUndecided():
            return f"waits for decisions on {', '.join(answer.conflicts)}"
        case _:
            return "succeeded"
