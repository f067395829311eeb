"""What a journal comes to."""

from datetime import UTC, datetime

from mcpkeep.protocol.upgrade.journal import (
    FIRST,
    REST,
    Begun,
    Done,
    Ended,
    Intent,
    JournalState,
    PhaseDone,
    PhaseUndone,
    Undone,
    fold,
)

AT = datetime(2026, 1, 31, tzinfo=UTC)
BEGUN = Begun("s", "upgrade", True, "test", AT)


def folded(*records: object) -> JournalState:
    state = fold((BEGUN, *records))  # type: ignore[arg-type]
    assert state is not None
    return state


def test_without_its_first_record_it_is_nothing() -> None:
    assert fold(()) is None
    assert fold((Done("g"), BEGUN)) is None


def test_a_group_is_interrupted_until_it_is_done_or_undone() -> None:
    first, rest = Intent(FIRST, ()), Intent(REST, ())
    assert folded(first).interrupted == (first,)
    assert folded(first, Done(FIRST)).interrupted == ()
    assert folded(first, Done(FIRST), rest).interrupted == (rest,)
    assert folded(first, Undone(FIRST)) == JournalState(BEGUN)
    assert folded(first, Done(FIRST), first).interrupted == (first,), "begun again"
    assert folded(Done(FIRST)) == JournalState(BEGUN), "nobody began it"
    assert folded(first, Done(FIRST), Done(FIRST)).done == (FIRST,)


def test_a_change_is_committed_from_its_last_group_on_until_that_is_undone() -> None:
    rest = Intent(REST, ())
    assert not folded(rest).committed
    assert folded(rest, Done(REST)).committed
    assert not folded(rest, Done(REST), Undone(REST)).committed


def test_an_undone_phase_takes_the_later_ones_along() -> None:
    phases = [PhaseDone(n, AT, 1.0) for n in range(4)]
    assert set(folded(*phases, PhaseUndone(2)).phases) == {0, 1}
    assert folded(Ended("aborted", AT)).ended == Ended("aborted", AT)
