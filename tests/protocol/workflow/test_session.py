"""Sessions: every action in every status, and both ways to number phases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.workflow import transition as rules
from mcpkeep.protocol.workflow.difference import describe_change, require_unchanged
from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound, Refusal, StateConflict
from mcpkeep.protocol.workflow.session import (
    KEPT,
    Checkpoint,
    PhaseRun,
    PhaseStatus,
    Session,
    SessionError,
    Status,
    Summary,
    check_session_id,
    paused_seconds,
    suggest,
    summarize,
)
from mcpkeep.protocol.workflow.transition import ALLOWED, Action

ID = "0b5f8a3e-6a1c-4c59-9d0b-1f2e3d4c5b6a"
T0 = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def started(first: int = 1, last: int = 3) -> Session:
    return rules.start(
        ID,
        workflow_type="w",
        target_file="a.py",
        first_phase=first,
        last_phase=last,
        options={"x": 1},
        now=T0,
    )


def error(phase: int = 1, seconds: float = 0, message: str = "no") -> SessionError:
    return SessionError(phase, at(seconds), "ValidationError", message)


def in_status(status: Status) -> Session:
    """A session at phase 2 of 3 (a completed one: at 3) that came to `status` the ordinary way."""
    session = rules.pass_gate(started(), 1, evidence={"a": 1}, now=at(10))
    match status:
        case Status.ACTIVE:
            return session
        case Status.PAUSED:
            return rules.pause(session, now=at(20))
        case Status.FAILED:
            return rules.fail(session, error=error(2, 20), now=at(20))
        case Status.ROLLED_BACK:
            return rules.undo(session, now=at(20))
        case Status.COMPLETED:
            session = rules.pass_gate(session, 2, evidence={"b": 2}, now=at(20))
            return rules.pass_gate(session, 3, evidence={"c": 3}, now=at(30))


CHANGES: dict[Action, Callable[[Session], Session]] = {
    Action.COMPLETE: lambda s: rules.pass_gate(s, s.current_phase, evidence={}, now=at(40)),
    Action.PAUSE: lambda s: rules.pause(s, now=at(40)),
    Action.RESUME: lambda s: rules.resume(s, now=at(40)),
    Action.RETRY: lambda s: rules.retry(s, s.current_phase, now=at(40)),
    Action.ROLLBACK: lambda s: rules.roll_back(s, s.current_phase, now=at(40)),
    Action.FAIL: lambda s: rules.fail(s, error=error(s.current_phase), now=at(40)),
    Action.UNDO: lambda s: rules.undo(s, now=at(40)),
    Action.RECORD_ERROR: lambda s: rules.record_error(s, error=error(s.current_phase), now=at(40)),
}

A, P, C, F, R = Status.ACTIVE, Status.PAUSED, Status.COMPLETED, Status.FAILED, Status.ROLLED_BACK

BECOMES: dict[Action, dict[Status, Status]] = {
    Action.COMPLETE: {A: A},
    Action.PAUSE: {A: P},
    Action.RESUME: {P: A},
    Action.RETRY: {A: A, F: A},
    Action.ROLLBACK: {A: A, P: A, C: A, F: A, R: A},
    Action.FAIL: {A: F, P: F},
    Action.UNDO: {A: R, P: R, C: R, F: R},
    Action.RECORD_ERROR: {A: A, P: P, C: C, F: F, R: R},
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("action", BECOMES)
def test_every_action_in_every_status_is_carried_out_or_refused_with_what_is_allowed(
    action: Action, status: Status
) -> None:
    before = in_status(status)
    becomes = BECOMES[action].get(status)
    if becomes is not None:
        after = CHANGES[action](before)
        assert (after.status, after.revision, after.last_updated) == (becomes, before.revision + 1, at(40))
        return
    with pytest.raises(StateConflict) as refused:
        CHANGES[action](before)
    assert f"this one is {status}" in str(refused.value)
    assert all(allowed in str(refused.value) for allowed in ALLOWED[action])
    assert all(possible in refused.value.remediation for possible in rules.actions_in(status))


def test_the_table_answers_every_action() -> None:
    assert ALLOWED.keys() == set(Action)
    assert {a: set(s) for a, s in BECOMES.items()} | {Action.DELETE: set(Status)} == {
        a: set(s) for a, s in ALLOWED.items()
    }


def test_a_refused_gate_is_refused_in_the_same_statuses_as_an_accepted_one() -> None:
    for status in set(Status) - {A}:
        with pytest.raises(StateConflict):
            rules.refuse_gate(in_status(status), 2, evidence={}, error=error(), now=at(40))


@pytest.mark.parametrize("first", [0, 1])
def test_a_session_is_worked_through_from_the_lowest_phase_to_the_last(first: int) -> None:
    session = started(first, first + 1)
    assert (session.current_phase, session.total_phases) == (first, 2)
    session = rules.pass_gate(session, first, evidence={"a": 1}, now=at(10))
    assert (session.current_phase, session.status, session.completed_phases) == (first + 1, A, (first,))
    session = rules.pass_gate(session, first + 1, evidence={"b": 2}, now=at(25))
    assert session == Session(
        session_id=ID,
        workflow_type="w",
        target_file="a.py",
        status=C,
        current_phase=first + 1,
        first_phase=first,
        last_phase=first + 1,
        completed_phases=(first, first + 1),
        artifacts={first: {"a": 1}, first + 1: {"b": 2}},
        phase_history=(
            PhaseRun(first, 1, T0, at(10), 10.0, PhaseStatus.COMPLETED),
            PhaseRun(first + 1, 1, at(10), at(25), 15.0, PhaseStatus.COMPLETED),
        ),
        options={"x": 1},
        created_at=T0,
        last_updated=at(25),
        completed_at=at(25),
        revision=3,
    )


@pytest.mark.parametrize(("phase", "says"), [(1, "completed already"), (3, "the current phase is 2")])
def test_only_the_current_phase_can_be_completed_or_retried(phase: int, says: str) -> None:
    session = in_status(A)
    changes: list[Callable[[], Session]] = [
        lambda: rules.pass_gate(session, phase, evidence={}, now=T0),
        lambda: rules.refuse_gate(session, phase, evidence={}, error=error(), now=T0),
        lambda: rules.retry(session, phase, now=T0),
    ]
    for change in changes:
        with pytest.raises(StateConflict, match=says):
            change()


@pytest.mark.parametrize("phase", [-1, 0, 4, 10**30])
def test_a_phase_that_the_workflow_does_not_have_is_not_found(phase: int) -> None:
    session = in_status(A)
    changes: list[Callable[[], Session]] = [
        lambda: rules.pass_gate(session, phase, evidence={}, now=T0),
        lambda: rules.retry(session, phase, now=T0),
        lambda: rules.roll_back(session, phase, now=T0),
    ]
    for change in changes:
        with pytest.raises(NotFound, match="the phases are 1 to 3"):
            change()


def test_a_definition_that_grew_meanwhile_adds_its_phases() -> None:
    session = started(1, 1)
    session = rules.pass_gate(session, 1, evidence={}, now=at(1), last_phase=2)
    assert (session.status, session.current_phase, session.last_phase) == (A, 2, 2)
    session = rules.pass_gate(session, 2, evidence={}, now=at(2), last_phase=1)
    assert (session.status, session.current_phase, session.last_phase) == (C, 2, 2)


def test_a_refused_gate_keeps_the_evidence_and_leaves_the_session_active() -> None:
    before = in_status(A)
    after = rules.refuse_gate(before, 2, evidence={"half": True}, error=error(2, 15), now=at(15))
    assert after == msgspec.structs.replace(
        before,
        pending_evidence={"half": True},
        errors=(error(2, 15),),
        error_count=1,
        last_updated=at(15),
        revision=before.revision + 1,
    )
    assert rules.pass_gate(after, 2, evidence={}, now=at(16)).pending_evidence == {}


def test_a_pause_is_remembered_with_its_note_and_its_length() -> None:
    paused = rules.pause(in_status(A), note="waiting for review", now=at(20))
    assert (paused.status, paused.checkpoint) == (P, Checkpoint(2, at(20), "waiting for review"))
    assert paused_seconds(paused, at(65.5)) == 45.5
    assert paused_seconds(paused, at(0)) == 0.0, "a clock that steps back makes no negative pause"
    resumed = rules.resume(paused, now=at(65.5))
    assert (resumed.status, resumed.current_phase, resumed.checkpoint) == (A, 2, paused.checkpoint)
    assert paused_seconds(started(), at(1)) == 0.0


@pytest.mark.parametrize("reset", [False, True])
def test_a_retry_is_a_new_attempt_and_resets_evidence_only_when_asked(reset: bool) -> None:
    session = rules.refuse_gate(in_status(A), 2, evidence={"half": 1}, error=error(2), now=at(15))
    again = rules.retry(session, 2, reset_evidence=reset, now=at(20))
    assert again.pending_evidence == ({} if reset else {"half": 1})
    assert again.artifacts == {1: {"a": 1}}
    assert again.errors == (error(2),)
    assert again.phase_history[1:] == (
        PhaseRun(2, 1, at(10), at(20), 10.0, PhaseStatus.RETRIED),
        PhaseRun(2, 2, at(20)),
    )


def test_a_retry_after_a_rollback_resets_the_accepted_evidence_too() -> None:
    session = rules.roll_back(in_status(A), 1, now=at(20))
    assert session.artifacts == {1: {"a": 1}}
    assert rules.retry(session, 1, reset_evidence=True, now=at(21)).artifacts == {}


def test_a_failed_phase_is_tried_again() -> None:
    failed = in_status(F)
    assert failed.phase_history[-1] == PhaseRun(2, 1, at(10), at(20), 10.0, PhaseStatus.FAILED)
    again = rules.retry(failed, 2, now=at(30))
    assert (again.status, again.phase_history[-1]) == (A, PhaseRun(2, 2, at(30)))
    assert again.phase_history[-2] == failed.phase_history[-1]


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("to_phase", [1, 2])
def test_a_rollback_clears_later_artifacts_and_reopens_the_phase(status: Status, to_phase: int) -> None:
    before = in_status(status)
    after = rules.roll_back(before, to_phase, now=at(40))
    assert (after.status, after.current_phase, after.completed_at) == (A, to_phase, None)
    assert after.completed_phases == tuple(range(1, to_phase))
    assert after.artifacts == {p: a for p, a in before.artifacts.items() if p <= to_phase}
    attempts = sum(run.phase == to_phase for run in before.phase_history)
    assert after.phase_history[-1] == PhaseRun(to_phase, attempts + 1, at(40))
    assert PhaseStatus.IN_PROGRESS not in {run.status for run in after.phase_history[:-1]}


def test_a_rollback_never_goes_forward() -> None:
    with pytest.raises(StateConflict, match="would go forward: the current phase is 2"):
        rules.roll_back(in_status(A), 3, now=at(40))


def test_a_completed_session_is_undone_during_probation() -> None:
    undone = rules.undo(in_status(C), error=error(3, 40, "crash loop"), now=at(40))
    assert (undone.status, undone.errors, undone.resume_capable) == (R, (error(3, 40, "crash loop"),), False)


def test_a_loop_of_retries_keeps_the_newest_errors_and_counts_all() -> None:
    session = started()
    for n in range(KEPT + 5):
        session = rules.record_error(session, error=error(message=str(n)), now=at(n))
        session = rules.retry(session, 1, now=at(n))
    assert (len(session.errors), session.error_count) == (KEPT, KEPT + 5)
    assert session.errors[-1].message == str(KEPT + 4)
    assert len(session.phase_history) == KEPT
    assert session.phase_history[-1].attempt == KEPT + 6


@pytest.mark.parametrize(("status", "capable"), [(A, True), (P, True), (F, True), (C, False), (R, False)])
def test_a_session_with_work_left_can_be_resumed(status: Status, capable: bool) -> None:
    assert in_status(status).resume_capable is capable


def test_a_change_in_between_is_told() -> None:
    seen = started()
    require_unchanged(seen, seen)
    current = rules.pass_gate(seen, 1, evidence={"a": 1}, now=at(1))
    current = rules.pause(rules.refuse_gate(current, 2, evidence={}, error=error(2), now=at(2)), now=at(3))
    with pytest.raises(StateConflict) as refused:
        require_unchanged(seen, current)
    assert str(refused.value) == (
        "another call changed the session first: status active -> paused; current_phase 1 -> 2; "
        "completed_phases [] -> [1]; 1 more error, last: no; artifacts changed; checkpoint changed"
    )


def test_a_retry_in_between_is_told() -> None:
    assert describe_change(started(), rules.retry(started(), 1, now=at(1))) == "phase 1 is at attempt 2"


def test_an_edit_by_hand_that_kept_the_revision_is_a_change_too() -> None:
    edited = msgspec.structs.replace(started(), target_file="b.py")
    with pytest.raises(StateConflict):
        require_unchanged(started(), edited)


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        "x",
        ID.upper(),
        ID + "\n",
        f"../{ID}",
        ID[:-1] + "/",
        ID.replace("-", "") + "----",
        "-" * 36,
        "٠" * 36,
        "\0" * 36,
        f"{{{ID[:34]}}}",
    ],
)
def test_an_id_that_is_no_lower_case_uuid_is_refused(session_id: str) -> None:
    with pytest.raises(InvalidArgument, match="not a lower-case UUID"):
        check_session_id(session_id)


@pytest.mark.parametrize(
    "changes", [{"current_phase": 4}, {"current_phase": 0}, {"last_phase": 0}, {"revision": 0}]
)
def test_a_session_outside_its_own_phases_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"phase|revision"):
        msgspec.convert({**msgspec.to_builtins(started(), str_keys=True), **changes}, Session)


def test_an_unknown_id_brings_close_ones_before_recent_ones() -> None:
    def known(n: int, prefix: str) -> Summary:
        session_id = f"{prefix}{n:0{8 - len(prefix)}x}{ID[8:]}"
        made = msgspec.structs.replace(started(), session_id=session_id, last_updated=at(n))
        return summarize(made)

    others = [known(n, "f") for n in range(10)]
    close = [known(n, "0b5f") for n in range(2)]
    assert set(suggest(ID, others + close)) == {s.session_id for s in close}
    assert suggest(ID, others) == tuple(s.session_id for s in others[:4:-1])
    assert suggest(ID, []) == ()


STEPS = st.lists(st.tuples(st.sampled_from(sorted(BECOMES)), st.integers(-1, 5)), max_size=40)


@given(STEPS, st.sampled_from([0, 1]))
def test_no_sequence_of_calls_breaks_a_session(steps: list[tuple[Action, int]], first: int) -> None:
    session = started(first, first + 2)
    for n, (action, phase) in enumerate(steps):
        before = session
        try:
            match action:
                case Action.COMPLETE:
                    session = rules.pass_gate(session, phase, evidence={"n": n}, now=at(n))
                case Action.RETRY:
                    session = rules.retry(session, phase, reset_evidence=n % 2 == 0, now=at(n))
                case Action.ROLLBACK:
                    session = rules.roll_back(session, phase, now=at(n))
                case _:
                    session = CHANGES[action](session)
        except Refusal:
            assert session is before
            continue
        running = [r for r in session.phase_history if r.status is PhaseStatus.IN_PROGRESS]
        assert [r.phase for r in running] == ([session.current_phase] if session.status in (A, P) else [])
        done = range(first, session.current_phase + (session.current_phase in session.completed_phases))
        assert session.completed_phases == tuple(done)
        assert (session.completed_at is not None) == (len(done) == 3)
        assert set(session.artifacts) <= {*done, session.current_phase}
        assert session.revision == before.revision + 1
