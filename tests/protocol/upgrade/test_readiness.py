"""How long a booting server is waited for; all of it on fake times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.readiness import (
    BUSY_SHARE,
    CAP_LIMIT,
    SILENCE_LIMIT,
    Patience,
    WaitVerdict,
    begin_wait,
)

WAIT, SILENT, OVERDUE = WaitVerdict.WAIT, WaitVerdict.SILENT, WaitVerdict.OVERDUE
BUSY = BUSY_SHARE * SILENCE_LIMIT


def test_the_limits_are_those_of_the_contract() -> None:
    assert (SILENCE_LIMIT, CAP_LIMIT) == (30, 900)


@pytest.mark.parametrize(
    ("looks", "now", "verdict"),
    [
        pytest.param([], 29.9, WAIT, id="silent, but not for long"),
        pytest.param([], 30, SILENT, id="silent from the start"),
        pytest.param([(25, 10, 0)], 54.9, WAIT, id="output extends it"),
        pytest.param([(25, 10, 0)], 55, SILENT, id="the same output does not extend it twice"),
        pytest.param([(25, 10, 0), (50, 10, 0)], 55, SILENT, id="nor when it is looked at again"),
        pytest.param([(25, 0, BUSY)], 54.9, WAIT, id="work extends it"),
        pytest.param([(10, 0, BUSY / 2), (25, 0, BUSY)], 54.9, WAIT, id="work that adds up extends it"),
        pytest.param([(25, 0, BUSY * 0.9)], 30, SILENT, id="the timers of an idle server do not"),
        pytest.param([(5, 0, 9), (10, 0, 1), (20, 0, 1 + BUSY)], 45, WAIT, id="a part of the tree went"),
        pytest.param([(5, 0, 9), (10, 0, 1), (20, 0, 1.1)], 35, SILENT, id="a part went, and no work since"),
        pytest.param([(t, t, 0) for t in range(0, 900, 20)], 900, OVERDUE, id="busy for the cap"),
        pytest.param([(t, t, 0) for t in range(0, 900, 20)], 899, WAIT, id="busy, before the cap"),
        pytest.param([(t, t, 0) for t in range(0, 870, 10)], 900, SILENT, id="both: silence is said"),
    ],
)
def test_the_verdict(looks: list[tuple[float, int, float]], now: float, verdict: WaitVerdict) -> None:
    wait = begin_wait(Patience(), 0)
    for at, output, cpu in looks:
        assert wait.verdict(at) is WAIT
        wait = wait.look(at, output=output, cpu=cpu)
    assert wait.verdict(now) is verdict


LOOKS = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 3), st.floats(0, 5)), max_size=60)


@given(LOOKS)
def test_a_wait_ends_by_the_cap_and_never_within_the_silence_limit_of_a_sign(
    looks: list[tuple[float, int, float]],
) -> None:
    patience = Patience(silence=30, cap=200)
    wait, now, output, cpu = begin_wait(patience, 0), 0.0, 0, 0.0
    last_sign = 0.0
    for pause, wrote, worked in looks:
        now, output, cpu = now + pause, output + wrote, cpu + worked
        wait = wait.look(now, output=output, cpu=cpu)
        if wrote or worked >= BUSY_SHARE * patience.silence:
            last_sign = now
        if now >= patience.cap:
            assert wait.verdict(now) is not WAIT
        elif now - last_sign < patience.silence:
            assert wait.verdict(now) is WAIT


def test_it_is_looked_at_ten_times_per_silence_limit() -> None:
    assert Patience(silence=5).pause == 0.5
