"""Probation: for some minutes after an upgrade a crash loop of the new version rolls back by itself."""

from datetime import datetime

import msgspec

__all__ = ["CRASHES", "PERIOD", "PROBATION", "Probation", "note_crash"]

PROBATION = "probation"
"""Who calls for a rollback where nobody asked."""

CRASHES = 3
"""So many crashes within the period are a loop: one may be chance, two bad luck."""
PERIOD = 60.0
"""Seconds; as the restart intensity's."""


class Probation(msgspec.Struct, frozen=True):
    """The time in which a release is watched; on disk, so that it outlasts mcpkeep."""

    session_id: str
    release: str
    former: str
    until: datetime
    crashes: tuple[float, ...] = ()
    """When the server ended unasked, in seconds of the clock of `note_crash`; not of use after a restart."""

    def holds(self, now: datetime) -> bool:
        """Whether it still lasts."""
        return now < self.until


def note_crash(probation: Probation, release: str | None, *, now: float) -> tuple[Probation, bool]:
    """Count a crash of `release`, at `now` in seconds; whether it is time to roll back."""
    if release != probation.release:
        return probation, False
    recent = tuple(at for at in (*probation.crashes, now) if now - at < PERIOD)
    return msgspec.structs.replace(probation, crashes=recent), len(recent) >= CRASHES
