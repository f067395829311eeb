"""A workflow session: its value, and what lists tell of it.

Phases are numbered from `first_phase`, 0 or 1, to `last_phase`.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from mcpkeep.protocol.workflow.refusal import InvalidArgument

__all__ = [
    "KEPT",
    "Checkpoint",
    "PhaseRun",
    "PhaseStatus",
    "Session",
    "SessionError",
    "Status",
    "Summary",
    "Time",
    "check_session_id",
    "paused_seconds",
    "seconds_between",
    "suggest",
    "summarize",
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


def paused_seconds(session: Session, now: datetime) -> float:
    """Seconds since the last pause, at least 0 (clocks step back); 0 where there was none."""
    return 0.0 if session.checkpoint is None else seconds_between(session.checkpoint.timestamp, now)


def suggest(session_id: str, known: Sequence[Summary]) -> tuple[str, ...]:
    """Up to five ids for a caller whose `session_id` is unknown: those that begin alike, else the recent."""

    def alike(summary: Summary) -> int:
        pairs = zip(session_id, summary.session_id, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(session_id), 36))

    # Below four characters a shared beginning is chance.
    close = sorted((s for s in known if alike(s) >= 4), key=alike, reverse=True)
    recent = sorted(known, key=lambda s: s.last_updated, reverse=True)
    return tuple(s.session_id for s in (close or recent)[:5])


def seconds_between(start: datetime, end: datetime) -> float:
    """Seconds from one moment to the other, at least 0: clocks step back."""
    return max(0.0, (end - start).total_seconds())
