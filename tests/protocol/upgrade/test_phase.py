"""Phases among the steps: each is announced by its number and name, and known again."""

import pytest

from mcpkeep.protocol.upgrade.evidence import PHASE_COUNT
from mcpkeep.protocol.upgrade.phase import PHASE_NAMES, announce_phase, announced_phase


def test_each_phase_is_announced_and_known_again() -> None:
    assert len(PHASE_NAMES) == PHASE_COUNT
    assert announce_phase(3) == "phase 3 of 5: server upgrade"
    assert [announced_phase(announce_phase(phase)) for phase in range(PHASE_COUNT)] == list(range(6))


@pytest.mark.parametrize(
    "step", ["", "planning", "phase 6 of 5: more", "phase 3 of 6: x", "in phase 3 of 5: x"]
)
def test_any_other_step_announces_none(step: str) -> None:
    assert announced_phase(step) is None
