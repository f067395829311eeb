"""A workflow session: its value, and every change it can go through.

All transitions live here. `ALLOWED` says which status allows which action; a change that is not allowed
raises and changes nothing. Phases are numbered from `first_phase`, 0 or 1, to `last_phase`.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound, StateConflict

__all__ = [
    "ALLOWED",
    "KEPT",
    "Action",
    "Checkpoint",
    "PhaseRun",
    "PhaseStatus",
    "Session",
    "SessionError",
    "Status",
    "Summary",
    "Time",
    "actions_in",
    "check_session_id",
    "describe_change",
    "fail",
    "pass_gate",
    "pause",
    "paused_seconds",
    "record_error",
    "refuse_gate",
    "require",
    "require_current",
    "require_reachable",
    "require_unchanged",
    "resume",
    "retry",
    "roll_back",
    "start",
    "suggest",
    "summarize",
    "undo",
]

KEPT = 1000
"""How many errors and phase runs a session keeps, the newest; a loop of retries must not grow it forever."""

Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware moment; in UTC it is written as ISO 8601 with `Z`."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class Status(enum.StrEnum):
    """Where a session stands."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


class PhaseStatus(enum.StrEnum):
    """Where one run of a phase stands, or how it ended."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRIED = "retried"
    ROLLED_BACK = "rolled_back"


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


class PhaseRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attempt at a phase; `attempt` counts from 1."""

    phase: int
    attempt: int
    started_at: Time
    completed_at: Time | None = None
    duration_seconds: float | None = None
    status: PhaseStatus = PhaseStatus.IN_PROGRESS


class SessionError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that went wrong in a phase, as `get_errors` tells it."""

    phase: int
    timestamp: Time
    error_type: str
    message: str
    details: Mapping[str, object] = {}
    remediation: str | None = None


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and when the session was paused last."""

    phase: int
    timestamp: Time
    note: str | None = None


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One workflow session, whole. Mappings in it are JSON values and are never changed in place."""

    session_id: str
    workflow_type: str
    target_file: str
    status: Status = Status.ACTIVE
    current_phase: int
    """The phase to work on; the last one once the session is completed."""
    first_phase: int
    last_phase: int
    completed_phases: tuple[int, ...] = ()
    """Ascending."""
    artifacts: Mapping[int, Mapping[str, object]] = {}
    """The accepted evidence by phase."""
    pending_evidence: Mapping[str, object] = {}
    """What the gate of the current phase refused last; kept for a retry that does not reset it."""
    phase_history: tuple[PhaseRun, ...] = ()
    """Oldest first; at most KEPT."""
    errors: tuple[SessionError, ...] = ()
    """Oldest first; at most KEPT of `error_count`."""
    error_count: int = 0
    checkpoint: Checkpoint | None = None
    options: Mapping[str, object] = {}
    created_at: Time
    last_updated: Time
    completed_at: Time | None = None
    revision: int = 1
    """Counts the changes, from 1."""

    @property
    def total_phases(self) -> int:
        return self.last_phase - self.first_phase + 1

    @property
    def resume_capable(self) -> bool:
        """Whether there is work left that can go on without a rollback."""
        return self.status not in (Status.COMPLETED, Status.ROLLED_BACK)

    def __post_init__(self) -> None:
        if not 0 <= self.first_phase <= self.current_phase <= self.last_phase:
            raise ValueError(
                f"phase {self.current_phase} is not in the range {self.first_phase} to {self.last_phase}"
            )
        if self.revision < 1:
            raise ValueError(f"revision {self.revision} is below 1")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a Session that lists need; reads a whole one and skips the rest."""

    session_id: str
    workflow_type: str
    target_file: str
    status: Status
    current_phase: int
    first_phase: int
    last_phase: int
    created_at: Time
    last_updated: Time
    completed_at: Time | None = None
    revision: int

    @property
    def total_phases(self) -> int:
        return self.last_phase - self.first_phase + 1


def summarize(session: Session) -> Summary:
    return Summary(**{field: getattr(session, field) for field in Summary.__struct_fields__})


def check_session_id(session_id: str) -> None:
    """Refuse what is not a lower-case UUID: it becomes a file name.

    Raises:
        InvalidArgument: it is not one.
    """
    if not _UUID.fullmatch(session_id):
        raise InvalidArgument(
            f"session_id {session_id[:80]!r} is not a lower-case UUID",
            "use the session_id that start answered, or one from list_sessions",
        )


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


def paused_seconds(session: Session, now: datetime) -> float:
    """Seconds since the last pause, at least 0 (clocks step back); 0 where there was none."""
    return 0.0 if session.checkpoint is None else _seconds(session.checkpoint.timestamp, now)


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


def suggest(session_id: str, known: Sequence[Summary]) -> tuple[str, ...]:
    """Up to five ids for a caller whose `session_id` is unknown: those that begin alike, else the recent."""

    def alike(summary: Summary) -> int:
        pairs = zip(session_id, summary.session_id, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(session_id), 36))

    # Below four characters a shared beginning is chance.
    close = sorted((s for s in known if alike(s) >= 4), key=alike, reverse=True)
    recent = sorted(known, key=lambda s: s.last_updated, reverse=True)
    return tuple(s.session_id for s in (close or recent)[:5])


def _require_phase(session: Session, phase: int) -> None:
    if not session.first_phase <= phase <= session.last_phase:
        raise NotFound(
            f"there is no phase {phase}: the phases are {session.first_phase} to {session.last_phase}",
            f"the current phase is {session.current_phase}",
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


def _changed(session: Session, now: datetime, **fields: object) -> Session:
    return msgspec.structs.replace(session, last_updated=now, revision=session.revision + 1, **fields)


def _with_error(session: Session, error: SessionError) -> dict[str, object]:
    return {"errors": (*session.errors, error)[-KEPT:], "error_count": session.error_count + 1}


def _close_run(session: Session, status: PhaseStatus, now: datetime) -> tuple[PhaseRun, ...]:
    return tuple(
        msgspec.structs.replace(
            run, completed_at=now, duration_seconds=_seconds(run.started_at, now), status=status
        )
        if run.status is PhaseStatus.IN_PROGRESS
        else run
        for run in session.phase_history
    )


def _open_run(history: tuple[PhaseRun, ...], phase: int, now: datetime) -> tuple[PhaseRun, ...]:
    attempt = max((run.attempt for run in history if run.phase == phase), default=0) + 1
    return (*history, PhaseRun(phase=phase, attempt=attempt, started_at=now))[-KEPT:]


def _seconds(start_: datetime, end: datetime) -> float:
    return max(0.0, (end - start_).total_seconds())
