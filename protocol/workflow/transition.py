"""Every change that a workflow session can go through.

All transitions live here. `ALLOWED` says which status allows which action; a change that is not allowed
raises and changes nothing.
"""

import enum
from collections.abc import Mapping
from datetime import datetime

import msgspec

from mcpkeep.protocol.workflow.refusal import NotFound, StateConflict
from mcpkeep.protocol.workflow.session import (
    KEPT,
    Checkpoint,
    PhaseRun,
    PhaseStatus,
    Session,
    SessionError,
    Status,
    check_session_id,
    seconds_between,
)

__all__ = [
    "ALLOWED",
    "Action",
    "actions_in",
    "fail",
    "pass_gate",
    "pause",
    "record_error",
    "refuse_gate",
    "require",
    "require_current",
    "require_reachable",
    "resume",
    "retry",
    "roll_back",
    "start",
    "undo",
]


class Action(enum.StrEnum):
    """What changes a session. `fail` and `undo` are mcpkeep's own, the others a client's."""

    COMPLETE = "complete_phase"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry_phase"
    ROLLBACK = "rollback"
    FAIL = "fail"
    UNDO = "undo"
    RECORD_ERROR = "record_error"
    DELETE = "delete_session"


_ANY = frozenset(Status)

ALLOWED: Mapping[Action, frozenset[Status]] = {
    Action.COMPLETE: frozenset({Status.ACTIVE}),
    Action.PAUSE: frozenset({Status.ACTIVE}),
    Action.RESUME: frozenset({Status.PAUSED}),
    Action.RETRY: frozenset({Status.ACTIVE, Status.FAILED}),
    Action.ROLLBACK: _ANY,
    # A phase that mcpkeep runs may fail while its client has paused the session.
    Action.FAIL: frozenset({Status.ACTIVE, Status.PAUSED}),
    # A completed upgrade is still undone when the new version crashes during probation.
    Action.UNDO: _ANY - {Status.ROLLED_BACK},
    Action.RECORD_ERROR: _ANY,
    Action.DELETE: _ANY,
}
"""The statuses in which each action is allowed; every other pair is a StateConflict."""

_OWN = frozenset({Action.FAIL, Action.UNDO, Action.RECORD_ERROR})


def actions_in(status: Status) -> tuple[Action, ...]:
    """The actions a client may take in `status`, sorted."""
    return tuple(sorted(a for a, allowed in ALLOWED.items() if status in allowed and a not in _OWN))


def require(session: Session, action: Action) -> None:
    """Raise StateConflict, naming the current state and the allowed ones, where `action` is not allowed."""
    allowed = ALLOWED[action]
    if session.status not in allowed:
        raise StateConflict(
            f"{action} needs a session that is {' or '.join(sorted(allowed))}; this one is {session.status}",
            f"allowed now: {', '.join(actions_in(session.status))}, and every read",
        )


def require_current(session: Session, phase: int, action: Action) -> None:
    """Raise StateConflict where `phase` is not the current one, NotFound where the workflow has none such."""
    _require_phase(session, phase)
    if phase != session.current_phase:
        done = " (completed already)" if phase in session.completed_phases else ""
        raise StateConflict(
            f"{action} of phase {phase}{done} is not possible: the current phase is {session.current_phase}",
            "name the current phase, or use rollback to return to an earlier one",
        )


def require_reachable(session: Session, to_phase: int) -> None:
    """Raise StateConflict where a rollback to this phase would go forward, NotFound where there is none."""
    _require_phase(session, to_phase)
    if to_phase > session.current_phase:
        raise StateConflict(
            f"rollback to phase {to_phase} would go forward: the current phase is {session.current_phase}",
            "use complete_phase to go forward",
        )


def start(
    session_id: str,
    *,
    workflow_type: str,
    target_file: str,
    first_phase: int,
    last_phase: int,
    now: datetime,
    options: Mapping[str, object] | None = None,
) -> Session:
    """A new active session at the first phase of its definition."""
    check_session_id(session_id)
    return Session(
        session_id=session_id,
        workflow_type=workflow_type,
        target_file=target_file,
        current_phase=first_phase,
        first_phase=first_phase,
        last_phase=last_phase,
        phase_history=(PhaseRun(phase=first_phase, attempt=1, started_at=now),),
        options=options or {},
        created_at=now,
        last_updated=now,
    )


def pass_gate(
    session: Session,
    phase: int,
    *,
    evidence: Mapping[str, object],
    now: datetime,
    next_phase: int | None = None,
    last_phase: int | None = None,
) -> Session:
    """The gate accepted `evidence`: the next phase begins, or the session completes.

    `next_phase` is the number that follows, where it is another than the next number; `last_phase` the
    definition's present one, where it may have changed since the start.

    Raises:
        StateConflict: the session is not active, or `phase` is not the current one.
        NotFound: the workflow has no such phase.
    """
    require(session, Action.COMPLETE)
    last = max(session.last_phase if last_phase is None else last_phase, session.current_phase)
    session = msgspec.structs.replace(session, last_phase=last)
    require_current(session, phase, Action.COMPLETE)
    history = _close_run(session, PhaseStatus.COMPLETED, now)
    completed = tuple(sorted({*session.completed_phases, phase}))
    artifacts = {**session.artifacts, phase: evidence}
    if phase == last:
        return _changed(
            session,
            now,
            status=Status.COMPLETED,
            completed_phases=completed,
            artifacts=artifacts,
            pending_evidence={},
            phase_history=history,
            completed_at=now,
        )
    following = phase + 1 if next_phase is None else next_phase
    return _changed(
        session,
        now,
        current_phase=following,
        completed_phases=completed,
        artifacts=artifacts,
        pending_evidence={},
        phase_history=_open_run(history, following, now),
    )


def refuse_gate(
    session: Session, phase: int, *, evidence: Mapping[str, object], error: SessionError, now: datetime
) -> Session:
    """The gate refused `evidence`: it is kept as pending, the error on record, and the session stays active.

    Raises:
        StateConflict, NotFound: as pass_gate.
    """
    require(session, Action.COMPLETE)
    require_current(session, phase, Action.COMPLETE)
    return _changed(session, now, pending_evidence=evidence, **_with_error(session, error))


def pause(session: Session, *, now: datetime, note: str | None = None) -> Session:
    """Set the session aside; `checkpoint` says where, when and why."""
    require(session, Action.PAUSE)
    checkpoint = Checkpoint(phase=session.current_phase, timestamp=now, note=note)
    return _changed(session, now, status=Status.PAUSED, checkpoint=checkpoint)


def resume(session: Session, *, now: datetime) -> Session:
    """Go on at the current phase; `paused_seconds` of the session before says how long it rested."""
    require(session, Action.RESUME)
    return _changed(session, now, status=Status.ACTIVE)


def retry(session: Session, phase: int, *, now: datetime, reset_evidence: bool = False) -> Session:
    """Begin the current phase anew, as the next attempt. A phase that failed is always the current one.

    Raises:
        StateConflict: the session is neither active nor failed, or `phase` is not the current one.
        NotFound: the workflow has no such phase.
    """
    require(session, Action.RETRY)
    require_current(session, phase, Action.RETRY)
    artifacts, pending = session.artifacts, session.pending_evidence
    if reset_evidence:
        artifacts, pending = {p: a for p, a in artifacts.items() if p != phase}, dict[str, object]()
    history = _open_run(_close_run(session, PhaseStatus.RETRIED, now), phase, now)
    return _changed(
        session,
        now,
        status=Status.ACTIVE,
        artifacts=artifacts,
        pending_evidence=pending,
        phase_history=history,
    )


def roll_back(session: Session, to_phase: int, *, now: datetime) -> Session:
    """Return to `to_phase` or start it anew: it and later ones are not completed, later artifacts are gone.

    Raises:
        StateConflict: `to_phase` lies ahead.
        NotFound: the workflow has no such phase.
    """
    require(session, Action.ROLLBACK)
    require_reachable(session, to_phase)
    history = _open_run(_close_run(session, PhaseStatus.ROLLED_BACK, now), to_phase, now)
    return _changed(
        session,
        now,
        status=Status.ACTIVE,
        current_phase=to_phase,
        completed_phases=tuple(p for p in session.completed_phases if p < to_phase),
        artifacts={p: a for p, a in session.artifacts.items() if p <= to_phase},
        pending_evidence={},
        phase_history=history,
        completed_at=None,
    )


def fail(session: Session, *, error: SessionError, now: datetime) -> Session:
    """A phase that mcpkeep itself runs has failed."""
    require(session, Action.FAIL)
    history = _close_run(session, PhaseStatus.FAILED, now)
    return _changed(session, now, status=Status.FAILED, phase_history=history, **_with_error(session, error))


def undo(session: Session, *, now: datetime, error: SessionError | None = None) -> Session:
    """What the session did to the world has been undone by mcpkeep."""
    require(session, Action.UNDO)
    history = _close_run(session, PhaseStatus.ROLLED_BACK, now)
    told = {} if error is None else _with_error(session, error)
    return _changed(session, now, status=Status.ROLLED_BACK, phase_history=history, **told)


def record_error(session: Session, *, error: SessionError, now: datetime) -> Session:
    """Put an error on record; nothing else moves."""
    require(session, Action.RECORD_ERROR)
    return _changed(session, now, **_with_error(session, error))


def _require_phase(session: Session, phase: int) -> None:
    if not session.first_phase <= phase <= session.last_phase:
        raise NotFound(
            f"there is no phase {phase}: the phases are {session.first_phase} to {session.last_phase}",
            f"the current phase is {session.current_phase}",
        )


def _changed(session: Session, now: datetime, **fields: object) -> Session:
    return msgspec.structs.replace(session, last_updated=now, revision=session.revision + 1, **fields)


def _with_error(session: Session, error: SessionError) -> dict[str, object]:
    return {"errors": (*session.errors, error)[-KEPT:], "error_count": session.error_count + 1}


def _close_run(session: Session, status: PhaseStatus, now: datetime) -> tuple[PhaseRun, ...]:
    return tuple(
        msgspec.structs.replace(
            run, completed_at=now, duration_seconds=seconds_between(run.started_at, now), status=status
        )
        if run.status is PhaseStatus.IN_PROGRESS
        else run
        for run in session.phase_history
    )


def _open_run(history: tuple[PhaseRun, ...], phase: int, now: datetime) -> tuple[PhaseRun, ...]:
    attempt = max((run.attempt for run in history if run.phase == phase), default=0) + 1
    return (*history, PhaseRun(phase=phase, attempt=attempt, started_at=now))[-KEPT:]
