"""The restart policy: which end, after which history, is followed by what."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.restart import (
    Decision,
    GiveUp,
    Restart,
    RestartPolicy,
    RestartType,
    Stay,
    Tally,
    decide,
)
from mcpkeep.protocol.switch import Exit

CLEAN = Exit(code=0)
FAULT = Exit(code=1)
KILLED = Exit(signal="SIGKILL")
UNSPAWNED = Exit(spawn_error="no such file")
NOW = 1000.0
NO_TALLY = Tally()


def _decide(
    policy: RestartPolicy,
    tally: Tally = NO_TALLY,
    *,
    exit_: Exit = KILLED,
    ready_since: float | None = NOW - 1,
    proven: bool = True,
    now: float = NOW,
    chance: float = 1.0,
) -> Decision:
    return decide(policy, tally, exit_=exit_, ready_since=ready_since, proven=proven, now=now, chance=chance)


@pytest.mark.parametrize(
    ("type_", "exit_", "restarted"),
    [
        (RestartType.PERMANENT, CLEAN, True),
        (RestartType.PERMANENT, FAULT, True),
        (RestartType.PERMANENT, KILLED, True),
        (RestartType.PERMANENT, UNSPAWNED, True),
        (RestartType.TRANSIENT, CLEAN, False),
        (RestartType.TRANSIENT, FAULT, True),
        (RestartType.TRANSIENT, KILLED, True),
        (RestartType.TRANSIENT, UNSPAWNED, True),
        (RestartType.TEMPORARY, CLEAN, False),
        (RestartType.TEMPORARY, FAULT, False),
        (RestartType.TEMPORARY, KILLED, False),
        (RestartType.TEMPORARY, UNSPAWNED, False),
    ],
)
def test_the_restart_type_says_which_ends_are_followed_by_a_restart(
    type_: RestartType, exit_: Exit, restarted: bool
) -> None:
    expected = Restart(0.0, Tally(1, (NOW,))) if restarted else Stay()
    assert _decide(RestartPolicy(type=type_), exit_=exit_) == expected


def test_a_command_that_has_never_run_is_given_up_at_once() -> None:
    decision = _decide(RestartPolicy(), exit_=UNSPAWNED, ready_since=None, proven=False)
    assert decision == GiveUp("it has never run")


def test_a_command_that_once_ran_and_cannot_be_executed_now_is_tried_again_with_backoff() -> None:
    decision = _decide(RestartPolicy(), exit_=UNSPAWNED, ready_since=None)
    assert decision == Restart(0.1, Tally(1, (NOW,)))


def _delays(policy: RestartPolicy, count: int, *, ready: bool, chance: float = 1.0) -> list[float | None]:
    """What follows each of so many ends in a row, 50 ms apart; None where it gives up."""
    tally, delays = Tally(), list[float | None]()
    for index in range(count):
        now = NOW + index * 0.05
        ready_since = now - 0.04 if ready else None
        match _decide(policy, tally, ready_since=ready_since, now=now, chance=chance):
            case Restart(after, tally):
                delays.append(round(after, 9))
            case _:
                delays.append(None)
                break
    return delays


@pytest.mark.parametrize(
    ("policy", "ready", "expected"),
    [
        (RestartPolicy(), True, [0, 0.1, 0.2, 0.4, 0.8, None]),
        (RestartPolicy(), False, [0.1, 0.1, 0.2, 0.4, 0.8, None]),
        (RestartPolicy(intensity=1), True, [0, None]),
        (RestartPolicy(intensity=0, backoff_max=1), True, [0, 0.1, 0.2, 0.4, 0.8, 1, 1]),
        (RestartPolicy(intensity=0, backoff_base=0), True, [0] * 7),
        (RestartPolicy(intensity=0, backoff_base=0), False, [0] * 7),
    ],
)
def test_the_first_restart_of_a_child_that_was_ready_is_immediate_and_repeats_wait_longer_each_time(
    policy: RestartPolicy, ready: bool, expected: list[float | None]
) -> None:
    assert _delays(policy, 7, ready=ready) == expected


def test_chance_spreads_a_delay_over_its_upper_half() -> None:
    assert _delays(RestartPolicy(), 4, ready=True, chance=0) == [0, 0.05, 0.1, 0.2]
    assert _delays(RestartPolicy(), 4, ready=True, chance=0.5) == [0, 0.075, 0.15, 0.3]


def test_restarts_before_the_period_no_longer_count_towards_the_intensity() -> None:
    policy = RestartPolicy(intensity=2, period=60)
    full = Tally(2, (NOW - 59, NOW - 1))
    assert _decide(policy, full) == GiveUp("it was restarted 2 times within 60 s")
    past = Tally(2, (NOW - 60, NOW - 1))
    assert _decide(policy, past) == Restart(0.2, Tally(3, (NOW - 1, NOW)))


@pytest.mark.parametrize(("uptime", "reset"), [(9.9, False), (10.0, True), (1e6, True)])
def test_only_sustained_uptime_wipes_the_tally(uptime: float, reset: bool) -> None:
    history = Tally(4, (NOW - 5,))
    expected = Restart(0.0, Tally(1, (NOW,))) if reset else Restart(0.8, Tally(5, (NOW - 5, NOW)))
    assert _decide(RestartPolicy(), history, ready_since=NOW - uptime) == expected


def test_ten_thousand_kills_without_backoff_or_intensity_leave_a_tally_of_constant_size() -> None:
    policy, tally = RestartPolicy(intensity=0, backoff_base=0), Tally()
    for index in range(10_000):
        decision = _decide(policy, tally, ready_since=NOW + index * 0.05, now=NOW + index * 0.05)
        assert isinstance(decision, Restart)
        assert decision.after == 0.0
        tally = decision.tally
    assert tally == Tally(10_000)


positive = st.floats(0, 1e6, allow_nan=False)


@given(
    policy=st.builds(
        RestartPolicy,
        intensity=st.integers(0, 20),
        period=positive,
        backoff_base=positive,
        backoff_factor=st.floats(1, 1e300),
        backoff_max=positive,
        healthy_after=positive,
    ),
    gaps=st.lists(positive, max_size=40),
    chance=st.floats(0, 1),
    ready=st.booleans(),
)
def test_a_delay_never_exceeds_its_bound_and_the_tally_never_the_intensity(
    policy: RestartPolicy, gaps: list[float], chance: float, ready: bool
) -> None:
    tally, then = Tally(), 0.0
    for now in itertools.accumulate(gaps):
        match _decide(policy, tally, ready_since=then if ready else None, now=now, chance=chance):
            case Restart(after, tally):
                assert 0 <= after <= policy.backoff_max
                assert len(tally.recent) <= policy.intensity
                then = now
            case GiveUp():
                assert policy.intensity > 0
                break
            case Stay():
                raise AssertionError("a permanent child does not stay down")
