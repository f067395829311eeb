"""The file of a session: what is written is read, what is torn is refused, older shapes are carried over."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.refusal import InvalidArgument
from mcpkeep.protocol.workflow.session import (
    Checkpoint,
    PhaseRun,
    PhaseStatus,
    Session,
    SessionError,
    Status,
    summarize,
)
from mcpkeep.protocol.workflow.snapshot import (
    SnapshotDamaged,
    SnapshotError,
    SnapshotTooNew,
    Stored,
    carry_over,
    encode_snapshot,
    open_snapshot,
    read_session,
    store,
)

OLD_FILES = Path(__file__).parent / "snapshots"
ID = "0b5f8a3e-6a1c-4c59-9d0b-1f2e3d4c5b6a"
T0 = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
SESSION = rules.start(
    ID, workflow_type="w", target_file="a.py", first_phase=0, last_phase=2, options={"é": [1, None]}, now=T0
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def two_hours_ahead(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone(timedelta(hours=2))).astimezone(UTC)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_written_is_read_and_people_can_read_it_too(evidence: dict[str, object]) -> None:
    session = rules.pass_gate(SESSION, 0, evidence=evidence, now=T0)
    data = encode_snapshot(session)
    stored = open_snapshot(data, session_id=ID)
    assert stored == Stored(summarize(session), data) == store(session)
    assert read_session(stored) == session
    lines = data.decode().splitlines()
    assert lines[:2] == ["{", '  "schema_version": 1,']
    assert lines[4].startswith('    "session_id": ')
    assert data.endswith(b"\n  }\n}\n")


def test_the_first_schema_is_read_for_ever() -> None:
    stored = open_snapshot((OLD_FILES / "schema-1.json").read_bytes(), session_id=ID)
    assert read_session(stored) == Session(
        session_id=ID,
        workflow_type="w",
        target_file="a.py",
        status=Status.PAUSED,
        current_phase=2,
        first_phase=1,
        last_phase=3,
        completed_phases=(1,),
        artifacts={1: {"a": 1}},
        pending_evidence={"ü": [1, 2.5, None, {"a b": "line\nbreak"}]},
        phase_history=(
            PhaseRun(1, 1, T0, T0 + timedelta(seconds=10), 10.0, PhaseStatus.COMPLETED),
            PhaseRun(2, 1, T0 + timedelta(seconds=10)),
        ),
        errors=(
            SessionError(
                2, T0 + timedelta(seconds=15), "ValidationError", "missing", {"missing": ["x"]}, "send x"
            ),
        ),
        error_count=1,
        checkpoint=Checkpoint(2, T0 + timedelta(seconds=16.25), "waiting"),
        options={"x": 1},
        created_at=T0,
        last_updated=T0 + timedelta(seconds=16.25),
        revision=4,
    )


def test_no_cut_and_no_flipped_byte_is_taken_for_a_session() -> None:
    data = encode_snapshot(SESSION)
    body = data.index(b'"session": ') + len(b'"session": ')
    for n in range(len(data) - 3):
        with pytest.raises(SnapshotDamaged):
            open_snapshot(data[:n], session_id=ID)
    for n in range(body, len(data) - 3):
        with pytest.raises(SnapshotDamaged):
            open_snapshot(data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :], session_id=ID)


@given(st.binary(max_size=200) | JSON.map(lambda v: msgspec.json.encode(v)))
def test_garbage_is_our_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        open_snapshot(data, session_id=ID)
    with pytest.raises(SnapshotError):
        carry_over(data, session_id=ID, to_utc=two_hours_ahead)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"session":' * 100_000, b'{"schema_version": 1e400}'])
def test_hostile_nesting_and_numbers_are_our_error(data: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        open_snapshot(data, session_id=ID)
    with pytest.raises(SnapshotDamaged):
        carry_over(data, session_id=ID, to_utc=two_hours_ahead)


def test_an_edit_without_its_checksum_is_taken_and_one_with_the_old_checksum_is_not() -> None:
    edited = encode_snapshot(SESSION).replace(b'"a.py"', b'"b.py"')
    with pytest.raises(SnapshotDamaged, match="remove the checksum line"):
        open_snapshot(edited, session_id=ID)
    declared = b"\n".join(line for line in edited.split(b"\n") if b"checksum" not in line)
    stored = open_snapshot(declared, session_id=ID)
    assert read_session(stored) == msgspec.structs.replace(SESSION, target_file="b.py")


def test_an_edit_that_makes_no_session_is_refused_even_without_a_checksum() -> None:
    lines = encode_snapshot(SESSION).replace(b'"current_phase": 0', b'"current_phase": 7').split(b"\n")
    with pytest.raises(SnapshotDamaged, match="phase 7 is not in the range 0 to 2"):
        open_snapshot(b"\n".join(line for line in lines if b"checksum" not in line), session_id=ID)


@pytest.mark.parametrize(
    "data",
    [
        b'{"schema_version": 2, "checksum": "sha256:0", "session": {}}',
        b'{"schema_version": 3, "everything": "is different"}',
    ],
)
def test_a_newer_schema_is_told_from_damage(data: bytes) -> None:
    with pytest.raises(SnapshotTooNew, match="run the newer mcpkeep") as refused:
        open_snapshot(data, session_id=ID)
    assert refused.value.schema_version >= 2


def test_a_schema_that_never_was_is_damage() -> None:
    with pytest.raises(SnapshotDamaged, match="no schema version 0"):
        open_snapshot(b'{"schema_version": 0, "session": {}}', session_id=ID)


def test_a_copy_under_another_name_is_no_second_session() -> None:
    other = ID.replace("0b5f", "ffff")
    with pytest.raises(SnapshotDamaged, match="copy of session"):
        open_snapshot(encode_snapshot(SESSION), session_id=other)
    old = (OLD_FILES / "seed-plan.json").read_bytes()
    with pytest.raises(SnapshotDamaged, match="copy of session"):
        carry_over(old, session_id=other, to_utc=two_hours_ahead)


@pytest.mark.parametrize("value", ["\ud800", {"a": {"\udfff": 1}}, object()])
def test_what_is_not_json_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgument, match="cannot be written as JSON"):
        encode_snapshot(rules.pass_gate(SESSION, 0, evidence={"v": value}, now=T0))


def test_endless_nesting_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    with pytest.raises(InvalidArgument):
        encode_snapshot(rules.pass_gate(SESSION, 0, evidence=loop, now=T0))


def test_integers_of_any_size_survive() -> None:
    session = rules.pass_gate(SESSION, 0, evidence={"v": 10**40}, now=T0)
    assert read_session(store(session)).artifacts == {0: {"v": 10**40}}


def utc(hour: int, minute: int = 0, second: float = 0, day: int = 29) -> datetime:
    return datetime(2025, 10, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)


def carried(name: str) -> Session:
    data = (OLD_FILES / name).read_bytes()
    session_id = msgspec.json.decode(data)["session_id"]
    return carry_over(data, session_id=session_id, to_utc=two_hours_ahead)


def test_an_upstream_session_is_carried_over_with_local_times_made_utc() -> None:
    assert carried("upstream-zero-indexed.json") == Session(
        session_id="3e1c1d2a-7f0e-4a5b-8c9d-0a1b2c3d4e5f",
        workflow_type="praxis_os_upgrade_v1",
        target_file="mcp_server",
        current_phase=2,
        first_phase=0,
        last_phase=5,
        completed_phases=(0, 1),
        artifacts={
            0: {"disk_space_sufficient": True},
            1: {
                "backup_path": ".praxis-os/.backups/2025-10-29-100600",
                "outputs": {"files": 348},
                "commands_executed": (
                    {
                        "command": "ls",
                        "output": "ok",
                        "exit_code": 0,
                        "executed_at": "2025-10-29T10:06:00",
                        "duration_ms": 3,
                    },
                ),
            },
        },
        pending_evidence={"all_tasks_completed": False},
        phase_history=(
            PhaseRun(0, 1, utc(8), utc(8, 5, 0.25), 300.25, PhaseStatus.COMPLETED),
            PhaseRun(1, 1, utc(8, 5, 0.25), utc(8, 7), 119.75, PhaseStatus.COMPLETED),
            PhaseRun(2, 1, utc(8, 9, 0.5)),
        ),
        options={"source_path": "/home/me/praxis-os", "dry_run": False},
        created_at=utc(8),
        last_updated=utc(8, 9, 0.5),
    )


def test_an_upstream_session_past_its_last_phase_is_completed() -> None:
    assert carried("upstream-one-indexed-complete.json") == Session(
        session_id="aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
        workflow_type="test_generation_v3",
        target_file="src/a.py",
        status=Status.COMPLETED,
        current_phase=2,
        first_phase=1,
        last_phase=2,
        completed_phases=(1, 2),
        created_at=utc(6, day=13),
        last_updated=utc(7, day=13),
        completed_at=utc(7, day=13),
    )


def test_a_session_of_the_first_plans_is_carried_over() -> None:
    session = carried("seed-plan.json")
    assert (session.first_phase, session.current_phase, session.last_phase) == (0, 1, 1)
    assert session.artifacts == {0: {"source_git_clean": True}}
    assert (session.created_at, session.last_updated) == (utc(10, day=8), utc(10, 30, day=8))


def test_a_carried_session_can_be_worked_on_and_stored() -> None:
    session = carried("upstream-zero-indexed.json")
    after = rules.pass_gate(session, 2, evidence={"all_tasks_completed": True}, now=utc(12))
    assert read_session(store(after)).current_phase == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": None, "updated_at": None},
        {"current_phase": -1, "completed_phases": []},
        {"current_phase": "x"},
        {"session_id": "../../etc/passwd"},
        {"completed_phases": ["a"]},
        {"created_at": "0001-01-01T00:00:00"},
    ],
)
def test_a_broken_older_file_is_our_error(changes: dict[str, object]) -> None:
    data = msgspec.json.decode((OLD_FILES / "upstream-zero-indexed.json").read_bytes()) | changes
    with pytest.raises(SnapshotDamaged):
        carry_over(msgspec.json.encode(data), session_id=str(data["session_id"]), to_utc=two_hours_ahead)
