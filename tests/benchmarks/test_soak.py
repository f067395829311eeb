"""The soak finds what it is there to find, and mcpkeep gives it nothing to find."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.benchmarks.figures import growth, percentile, slope
from tests.benchmarks.soak import Ledger, Reading, Soak, run_soak, soak_table, violations

NAIVE = Path(__file__).with_name("naive_relay.py")
STEADY = tuple(Reading(rss=20_000_000, open_files=12, processes=2) for _ in range(16))
GOOD = Soak(
    *(100, 2_000, 1_900, 100),
    lost=0,
    doubled=0,
    orphans=0,
    readings=STEADY,
    seconds=1.0,
)


def changed(**changes: object) -> Soak:
    return msgspec.structs.replace(GOOD, **changes)


def growing(field: str, step: int) -> tuple[Reading, ...]:
    return tuple(
        msgspec.structs.replace(reading, **{field: getattr(reading, field) + step * index})
        for index, reading in enumerate(STEADY)
    )


def test_a_soak_that_kept_all_promises_has_no_violations() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("soak", "said"),
    [
        (changed(lost=2), "2 requests were never answered"),
        (changed(doubled=1), "1 answers had no request waiting for them"),
        (changed(orphans=3), "3 processes outlived the session"),
        (changed(ending="stuck"), "the session ended stuck after 100 kills"),
        (changed(readings=growing("rss", 200_000)), "the resident memory grew by 1,562 kiB"),
        (changed(readings=growing("open_files", 1)), "the open files grew by 8"),
        (changed(readings=growing("processes", 1)), "the descendants grew by 8"),
    ],
)
def test_each_broken_promise_is_named(soak: Soak, said: str) -> None:
    assert violations(soak) == [said]
    assert ("nothing lost, doubled, left or grown", "MISSED") in soak_table(soak).rows


def test_the_ledger_counts_each_answer_once_and_strangers_as_doubled() -> None:
    ledger = Ledger()
    first, second, third = ledger.send(), ledger.send(), ledger.send()
    ledger.answer(first, error=False)
    ledger.answer(first, error=False)
    ledger.answer(second, error=True)
    ledger.answer("somebody else's", error=False)
    assert (ledger.good, ledger.failed, ledger.doubled, ledger.outstanding) == (1, 1, 2, {third})


def test_growth_compares_the_last_quarter_with_the_second_and_ignores_the_first() -> None:
    assert growth([0, 0, 10, 10, 10, 10, 10, 10]) == 0
    assert growth([0, 0, 10, 10, 10, 10, 13, 13]) == 3
    with pytest.raises(ValueError, match="7 readings are too few"):
        growth([1] * 7)


def test_percentile_and_slope_of_known_series() -> None:
    assert percentile([5, 1, 4, 2, 3], 0.5) == 3
    assert percentile([1, 2], 1.0) == 2
    assert slope([1, 3, 5, 7]) == pytest.approx(2)


def naive(fault: str = "") -> Callable[[Sequence[str]], list[str]]:
    return lambda server: [sys.executable, "-I", "-S", str(NAIVE), *filter(None, [fault]), "--", *server]


def test_a_relay_that_restarts_its_child_and_answers_for_it_passes(tmp_path: Path) -> None:
    soak = run_soak(cwd=tmp_path, kills=8, command=naive())
    assert violations(soak) == []
    assert (soak.kills, soak.good + soak.failed) == (8, soak.calls)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("--lose", "requests were never answered"),
        ("--double", "answers had no request waiting for them"),
        ("--orphan", "processes outlived the session"),
        ("--leak", "the resident memory grew"),
        ("--leak", "the open files grew"),
    ],
)
def test_a_relay_with_a_fault_is_found_out(tmp_path: Path, fault: str, said: str) -> None:
    soak = run_soak(cwd=tmp_path, kills=24, command=naive(fault), answer_limit=3.0)
    assert said in ", ".join(violations(soak))


@pytest.mark.slow
def test_two_hundred_kills_under_load_lose_double_leave_and_grow_nothing(tmp_path: Path) -> None:
    soak = run_soak(cwd=tmp_path, kills=200)
    assert violations(soak) == []
    assert (soak.kills, soak.good + soak.failed) == (200, soak.calls)
