"""When a quiet child is asked, and when its silence counts."""

import pytest

from mcpkeep.protocol.relay.health import Health, HealthSettings, Probe

NOTHING, ASK, CONFIRM, WEDGED = Probe.NOTHING, Probe.ASK, Probe.CONFIRM, Probe.WEDGED


def health(*, busy: bool = False) -> Health:
    return Health(HealthSettings(after_idle=30, timeout=10, busy=busy))


def test_a_child_that_was_never_used_is_not_asked() -> None:
    quiet = health()
    assert quiet.deadline() is None
    assert quiet.tick(1e9, busy=False) is NOTHING


def test_checks_can_be_turned_off() -> None:
    off = Health(HealthSettings(after_idle=0))
    off.used(0)
    assert off.deadline() is None and off.tick(1e9, busy=False) is NOTHING


def test_a_silent_child_is_wedged_only_after_two_questions() -> None:
    silent = health()
    silent.used(100)
    steps = [(129.9, NOTHING), (130, ASK), (139.9, NOTHING), (140, CONFIRM), (149.9, NOTHING), (150, WEDGED)]
    for now, probe in steps:
        assert silent.tick(now, busy=False) is probe, now
    assert silent.deadline() is None


@pytest.mark.parametrize("asked", [130, 140])
def test_any_word_after_a_question_ends_the_check_until_the_child_is_used_again(asked: float) -> None:
    alive = health()
    alive.used(100)
    for now in (130, 140):
        if now <= asked:
            alive.tick(now, busy=False)
    alive.heard(asked + 1)
    assert alive.deadline() is None
    assert alive.tick(1e9, busy=False) is NOTHING
    alive.used(1000)
    assert alive.deadline() == 1030
    assert alive.tick(1030, busy=False) is ASK


def test_every_word_puts_the_question_off() -> None:
    talking = health()
    talking.used(0)
    talking.heard(20)
    assert talking.deadline() == 50


def test_a_busy_child_is_not_judged_and_asked_once_it_is_idle() -> None:
    busy = health()
    busy.used(0)
    assert busy.tick(30, busy=True) is NOTHING
    assert busy.deadline() == 60
    assert busy.tick(60, busy=False) is ASK
    assert busy.tick(70, busy=True) is NOTHING, "a call came meanwhile"
    assert busy.tick(100, busy=False) is ASK


def test_a_busy_child_is_judged_where_that_was_asked_for() -> None:
    judged = health(busy=True)
    judged.used(0)
    assert [judged.tick(now, busy=True) for now in (30, 40, 50)] == [ASK, CONFIRM, WEDGED]


def test_a_replacement_starts_afresh() -> None:
    replaced = health()
    replaced.used(0)
    replaced.tick(30, busy=False)
    replaced.replaced()
    assert replaced.deadline() is None
