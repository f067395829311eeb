"""The six phases by name, and how one is announced among the steps of an upgrade."""

import re

__all__ = ["PHASE_NAMES", "announce_phase", "announced_phase"]

PHASE_NAMES = (
    "Pre-flight checks",
    "Backup and preparation",
    "Content upgrade",
    "Server upgrade",
    "Validation",
    "Cleanup",
)
_LAST = len(PHASE_NAMES) - 1
_ANNOUNCED = re.compile(rf"phase ([0-{_LAST}]) of {_LAST}: ")


def announce_phase(phase: int) -> str:
    """The step that a phase begins with, such as `phase 3 of 5: server upgrade`."""
    return f"phase {phase} of {_LAST}: {PHASE_NAMES[phase].lower()}"


def announced_phase(step: str) -> int | None:
    """The phase that this step announces; None for a step within one."""
    found = _ANNOUNCED.match(step)
    return None if found is None else int(found[1])
