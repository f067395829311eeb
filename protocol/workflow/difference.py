"""What changed in a session between the one that a caller saw and the one that stands."""

from mcpkeep.protocol.workflow.refusal import StateConflict
from mcpkeep.protocol.workflow.session import PhaseStatus, Session

__all__ = ["describe_change", "require_unchanged"]


def describe_change(seen: Session, current: Session) -> str:
    """Say what differs between the session a caller saw and the one that stands, for a StateConflict."""
    told: list[str] = []
    for field in ("status", "current_phase", "last_phase"):
        if (was := getattr(seen, field)) != (is_ := getattr(current, field)):
            told.append(f"{field} {was} -> {is_}")
    if seen.completed_phases != current.completed_phases:
        told.append(f"completed_phases {[*seen.completed_phases]} -> {[*current.completed_phases]}")
    if (new := current.error_count - seen.error_count) > 0:
        told.append(f"{new} more error{'s' if new > 1 else ''}, last: {current.errors[-1].message}")
    runs = [r for r in current.phase_history if r.status is PhaseStatus.IN_PROGRESS]
    if runs and runs[-1].attempt > 1 and runs[-1] not in seen.phase_history:
        told.append(f"phase {runs[-1].phase} is at attempt {runs[-1].attempt}")
    for field in ("artifacts", "pending_evidence", "checkpoint", "options"):
        if getattr(seen, field) != getattr(current, field):
            told.append(f"{field} changed")
    return "; ".join(told) or f"revision {seen.revision} -> {current.revision}"


def require_unchanged(seen: Session, current: Session) -> None:
    """Raise StateConflict, saying what changed, where `current` is not the session the caller saw."""
    if seen.revision != current.revision or seen != current:
        raise StateConflict(
            f"another call changed the session first: {describe_change(seen, current)}",
            "read the session again with get_state, then decide anew",
        )
