"""When a child is replaced for its memory: at once the first time, then ever more rarely."""

from itertools import pairwise

import pytest

from mcpkeep.protocol.memory import FIRST_PAUSE, LONGEST_PAUSE, Guard, Verdict, judge_memory

MIB = 2**20
LIMIT = 100 * MIB
TOO_MUCH = "its process tree holds 150.0 MiB, above limits.memory = 100.0 MiB"


def judged(*measured: tuple[float, int], guard: Guard | None = None) -> list[Verdict]:
    """The verdicts over (time, MiB), one after the other."""
    guard = guard or Guard(LIMIT)
    verdicts: list[Verdict] = []
    for now, held in measured:
        guard, verdict = judge_memory(guard, held * MIB, now)
        verdicts.append(verdict)
    return verdicts


@pytest.mark.parametrize("held", [0, 1, 100])
def test_up_to_the_limit_nothing_happens(held: int) -> None:
    assert judged((0, held), (5, held)) == [Verdict(), Verdict()]


def test_above_the_limit_it_is_replaced_at_once() -> None:
    assert judged((0, 100), (5, 150)) == [Verdict(), Verdict(restart=TOO_MUCH)]


def test_a_fresh_one_that_is_above_it_too_stays_for_a_minute_which_is_told_once() -> None:
    told = (
        f"the server was replaced for its memory 5 s ago, and again {TOO_MUCH}; "
        "it stays for 55 s more. Raise the limit if it needs as much"
    )
    assert judged((0, 150), (5, 150), (10, 150), (59, 150), (60, 150)) == [
        Verdict(restart=TOO_MUCH),
        Verdict(warning=told),
        Verdict(),
        Verdict(),
        Verdict(restart=TOO_MUCH),
    ]


def test_the_pauses_double_up_to_an_hour() -> None:
    guard, now = Guard(LIMIT), 0.0
    restarts: list[float] = []
    while len(restarts) < 10:
        guard, verdict = judge_memory(guard, 150 * MIB, now)
        if verdict.restart is not None:
            restarts.append(now)
        now += 5
    pauses = [later - former for former, later in pairwise(restarts)]
    assert pauses == [FIRST_PAUSE * 2**n for n in range(6)] + [LONGEST_PAUSE] * 3


def test_one_that_grows_again_after_two_pauses_is_replaced_at_once_and_the_pauses_begin_anew() -> None:
    restarted, told, *rest = judged((0, 150), (5, 150), (119, 50), (120, 150), (125, 150), (180, 150))
    assert restarted.restart and told.warning
    assert [(bool(verdict.restart), bool(verdict.warning)) for verdict in rest] == [
        (False, False),
        (True, False),
        (False, True),
        (True, False),
    ]
