"""How a session stands in its file: a schema version, a checksum of the body, the body; JSON people can read.

The checksum covers the bytes of the body as they stand in the file. Someone who edits a file by hand takes
the `checksum` member out to say so. Shapes without a version are older: prAxIs OS's own, and the seeds'.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.workflow.refusal import InvalidArgument
from mcpkeep.protocol.workflow.session import (
    PhaseRun,
    PhaseStatus,
    Session,
    Status,
    Summary,
    check_session_id,
    summarize,
)

__all__ = [
    "SCHEMA_VERSION",
    "SnapshotDamaged",
    "SnapshotError",
    "SnapshotTooNew",
    "Stored",
    "carry_over",
    "encode_snapshot",
    "open_snapshot",
    "read_session",
    "store",
]

SCHEMA_VERSION = 1


class SnapshotError(McpkeepError):
    """A file that cannot be read as a session."""


class SnapshotDamaged(SnapshotError):
    """The file is torn, edited, or not a session at all; the text says which."""


class SnapshotTooNew(SnapshotError):
    """A newer mcpkeep wrote the file; it must not be touched."""

    def __init__(self, schema_version: int) -> None:
        super().__init__(
            f"it has schema version {schema_version}, and this mcpkeep knows up to {SCHEMA_VERSION}: "
            "run the newer mcpkeep"
        )
        self.schema_version = schema_version


class Stored(msgspec.Struct, frozen=True):
    """A session as it is kept in memory: what lists need, and the snapshot's bytes for the rest."""

    summary: Summary
    data: bytes


class _Version(msgspec.Struct, frozen=True):
    schema_version: int


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    session: msgspec.Raw
    checksum: str | None = None


_version = msgspec.json.Decoder(_Version)
_file = msgspec.json.Decoder(_File)
_summary = msgspec.json.Decoder(Summary)
_session = msgspec.json.Decoder(Session)
_encoder = msgspec.json.Encoder()


def encode_snapshot(session: Session) -> bytes:
    """The file of a session.

    Raises:
        InvalidArgument: a value in it is not JSON, such as a lone surrogate or endless nesting.
    """
    try:
        plain = _encoder.encode(session)
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise InvalidArgument(
            f"the session cannot be written as JSON: {e}", "send evidence and options of plain JSON values"
        ) from e
    # No JSON string holds a raw newline, so every one is ours to indent.
    body = msgspec.json.format(plain, indent=2).replace(b"\n", b"\n  ")
    head = f'{{\n  "schema_version": {SCHEMA_VERSION},\n  "checksum": "{_checksum(body)}",\n  "session": '
    return head.encode() + body + b"\n}\n"


def store(session: Session) -> Stored:
    """Encode a session for keeping. Raises InvalidArgument as encode_snapshot."""
    return Stored(summarize(session), encode_snapshot(session))


def open_snapshot(data: bytes, *, session_id: str) -> Stored:
    """Check a file's version, checksum and owner, and read no more than its summary.

    Raises:
        SnapshotTooNew: a newer mcpkeep wrote it.
        SnapshotDamaged: anything else is wrong with it.
    """
    try:
        file = _file.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        _refuse_newer(data)
        raise SnapshotDamaged(f"it is not a session snapshot: {e}") from e
    if file.schema_version > SCHEMA_VERSION:
        raise SnapshotTooNew(file.schema_version)
    if file.schema_version < 1:
        raise SnapshotDamaged(f"there is no schema version {file.schema_version}")
    if file.checksum is not None and file.checksum != _checksum(file.session):
        raise SnapshotDamaged("its checksum does not match; after an edit by hand, remove the checksum line")
    try:
        if file.checksum is None:
            _session.decode(file.session)
        summary = _summary.decode(file.session)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise SnapshotDamaged(f"its session is not valid: {e}") from e
    if summary.session_id != session_id:
        raise SnapshotDamaged(f"it is a copy of session {summary.session_id!r} under another name")
    return Stored(summary, data)


def read_session(stored: Stored) -> Session:
    """The whole session.

    Raises:
        SnapshotDamaged: it passed its checksum and is no session all the same.
    """
    try:
        return _session.decode(_file.decode(stored.data).session)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise SnapshotDamaged(f"its session is not valid: {e}") from e


def carry_over(data: bytes, *, session_id: str, to_utc: Callable[[datetime], datetime]) -> Session:
    """Read a session that prAxIs OS (or the first plans for it) wrote. Its times are local and naive.

    `to_utc` turns a naive local time into an aware one in UTC.

    Raises:
        SnapshotDamaged: it is none.
    """
    try:
        check_session_id(session_id)
        old = msgspec.json.decode(data, type=_Older)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidArgument) as e:
        raise SnapshotDamaged(f"it is not a session of prAxIs OS: {e}") from e
    if old.session_id != session_id:
        raise SnapshotDamaged(f"it is a copy of session {old.session_id!r} under another name")
    try:
        return _carry(old, to_utc)
    except (ValueError, OverflowError) as e:
        raise SnapshotDamaged(f"it is not a session of prAxIs OS: {e}") from e


class _Artifact(msgspec.Struct, frozen=True):
    evidence: Mapping[str, object]
    outputs: Mapping[str, object] = {}
    commands_executed: tuple[object, ...] = ()
    timestamp: datetime | None = None


class _Older(msgspec.Struct, frozen=True):
    """Both older shapes at once; unknown members are tolerated."""

    session_id: str
    workflow_type: str
    target_file: str
    current_phase: Annotated[int, msgspec.Meta(ge=0)]
    completed_phases: tuple[int, ...] = ()
    phase_artifacts: Mapping[int, Mapping[str, object]] = {}
    checkpoints: Mapping[int, str] = {}
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: Mapping[str, object] = {}


def _carry(old: _Older, to_utc: Callable[[datetime], datetime]) -> Session:
    created = old.created_at or old.started_at or old.updated_at
    if created is None:
        raise ValueError("it has no created_at")
    created_at = _aware(created, to_utc)
    updated_at = max(created_at, _aware(old.updated_at or created, to_utc))
    done = sorted(set(old.completed_phases))
    # Upstream starts at 0 where the definition has a phase 0, and does not write down which.
    first = 0 if 0 in (old.current_phase, *done) else 1
    total = old.metadata.get("total_phases")
    known = isinstance(total, int) and not isinstance(total, bool) and total >= 1
    last = first + total - 1 if known and isinstance(total, int) else max(old.current_phase, first, *done)
    completed = last in done and old.current_phase > last
    current = min(max(old.current_phase, first), last)
    artifacts: dict[int, Mapping[str, object]] = {}
    history: list[PhaseRun] = []
    begun = created_at
    for phase, raw in sorted(old.phase_artifacts.items()):
        try:
            artifact = msgspec.convert(raw, _Artifact)
        except msgspec.ValidationError:
            artifacts[phase] = raw
            continue
        extra = {"outputs": artifact.outputs, "commands_executed": artifact.commands_executed}
        artifacts[phase] = {**{k: v for k, v in extra.items() if v}, **artifact.evidence}
        if phase in done and artifact.timestamp is not None:
            ended = max(begun, _aware(artifact.timestamp, to_utc))
            history.append(_ran(phase, begun, ended))
            begun = ended
    # A refused gate left its evidence beside the accepted ones.
    pending = artifacts.pop(current, None) if current not in done else None
    if not completed:
        history.append(PhaseRun(phase=current, attempt=1, started_at=max(begun, updated_at)))
    return Session(
        session_id=old.session_id,
        workflow_type=old.workflow_type,
        target_file=old.target_file,
        status=Status.COMPLETED if completed else Status.ACTIVE,
        current_phase=current,
        first_phase=first,
        last_phase=last,
        completed_phases=tuple(done),
        artifacts=artifacts,
        pending_evidence=pending or {},
        phase_history=tuple(history),
        options={k: v for k, v in old.metadata.items() if k != "total_phases"},
        created_at=created_at,
        last_updated=updated_at,
        completed_at=updated_at if completed else None,
    )


def _ran(phase: int, begun: datetime, ended: datetime) -> PhaseRun:
    return PhaseRun(
        phase=phase,
        attempt=1,
        started_at=begun,
        completed_at=ended,
        duration_seconds=(ended - begun).total_seconds(),
        status=PhaseStatus.COMPLETED,
    )


def _aware(moment: datetime, to_utc: Callable[[datetime], datetime]) -> datetime:
    return to_utc(moment) if moment.tzinfo is None else moment.astimezone(UTC)


def _checksum(body: msgspec.Raw | bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _refuse_newer(data: bytes) -> None:
    try:
        version = _version.decode(data).schema_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if version > SCHEMA_VERSION:
        raise SnapshotTooNew(version)
