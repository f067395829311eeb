"""What answers tell of a session: the members that several actions share, as clients read them."""

from collections.abc import Mapping, Sequence

from mcpkeep.protocol.workflow.session import PhaseStatus, Session, SessionError, Summary

__all__ = ["artifacts_of", "attempt_of", "error_members", "history_of", "key_of", "state_of", "summary_of"]


def key_of(phase: int) -> str:
    """How an answer names a phase where phases are keys."""
    return f"phase_{phase}"


def artifacts_of(artifacts: Mapping[int, Mapping[str, object]]) -> dict[str, object]:
    """Artifacts by phase, the first phase first."""
    return {key_of(phase): artifacts[phase] for phase in sorted(artifacts)}


def state_of(session: Session, total_phases: int) -> dict[str, object]:
    """What `get_state` answers."""
    return {
        "workflow_type": session.workflow_type,
        "target_file": session.target_file,
        "current_phase": session.current_phase,
        "total_phases": total_phases,
        "completed_phases": session.completed_phases,
        "artifacts": artifacts_of(session.artifacts),
        "session_status": session.status,
        "created_at": session.created_at,
        "last_updated": session.last_updated,
        "resume_capable": session.resume_capable,
        "options": session.options,
    }


def summary_of(summary: Summary) -> dict[str, object]:
    """One line of `list_sessions`."""
    done = {} if summary.completed_at is None else {"completed_at": summary.completed_at}
    return {
        "session_id": summary.session_id,
        "workflow_type": summary.workflow_type,
        "target_file": summary.target_file,
        "current_phase": summary.current_phase,
        "total_phases": summary.total_phases,
        "status": summary.status,
        "created_at": summary.created_at,
        "last_updated": summary.last_updated,
        **done,
    }


def error_members(errors: Sequence[SessionError]) -> list[dict[str, object]]:
    """Errors as `get_errors` tells them, the oldest first."""
    return [
        {
            "phase": error.phase,
            "timestamp": error.timestamp,
            "error_type": error.error_type,
            "message": error.message,
            "details": error.details,
            **({} if error.remediation is None else {"remediation": error.remediation}),
        }
        for error in errors
    ]


def history_of(session: Session) -> dict[str, object]:
    """What `get_session` adds to the state."""
    note = session.checkpoint.note if session.checkpoint is not None else None
    return {
        "phase_history": session.phase_history,
        "errors": error_members(session.errors),
        **({} if session.completed_at is None else {"completed_at": session.completed_at}),
        **({} if note is None else {"checkpoint_note": note}),
    }


def attempt_of(session: Session) -> int:
    """Which attempt at its current phase is under way, from 1."""
    runs = [run for run in session.phase_history if run.status is PhaseStatus.IN_PROGRESS]
    return runs[-1].attempt if runs else 1
