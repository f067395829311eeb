"""When a quiet child is asked whether it still answers, and when silence means that it is wedged.

A healthy server was once respawned 362 times a day because one ping went unanswered. So: only after it was
used, only once per quiet spell, only while it is not busy, and a second kind of request has to stay
unanswered too.
"""

import enum

import msgspec

__all__ = ["Health", "HealthSettings", "Probe"]


class HealthSettings(msgspec.Struct, frozen=True):
    after_idle: float = 30.0
    """Seconds of quiet after which a child that was used is checked once; 0 turns checks off."""
    timeout: float = 10.0
    """Seconds that each of the two questions may stay unanswered."""
    busy: bool = False
    """Also judge a child while calls are in flight, so that a slow call counts as a hang."""


class Probe(enum.Enum):
    """What to do now."""

    NOTHING = "nothing"
    ASK = "ask"
    CONFIRM = "confirm"
    WEDGED = "wedged"


class Health:
    """The health check of the serving child. Times are seconds on the caller's clock."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._last_used = 0.0
        self._checked = True
        self._asked_at: float | None = None
        self._confirming = False

    def used(self, now: float) -> None:
        """The client sent the child something."""
        self._last_used = now
        self._checked = False

    def heard(self, now: float) -> None:
        """The child wrote something: whatever was asked, it lives."""
        self._last_used = now
        if self._asked_at is not None:
            self._asked_at = None
            self._confirming = False
            self._checked = True

    def replaced(self) -> None:
        """Another child serves; it has not been used yet."""
        self._checked = True
        self._asked_at = None
        self._confirming = False

    def deadline(self) -> float | None:
        """When tick() is next due, or None while there is nothing to watch for."""
        if self._asked_at is not None:
            return self._asked_at + self._settings.timeout
        if self._checked or not self._settings.after_idle:
            return None
        return self._last_used + self._settings.after_idle

    def tick(self, now: float, *, busy: bool) -> Probe:
        """Decide at `now`; `busy` while requests are in flight at the child."""
        due = self.deadline()
        if due is None or now < due:
            return Probe.NOTHING
        if busy and not self._settings.busy:
            self._asked_at = None
            self._confirming = False
            self._last_used = now
            return Probe.NOTHING
        if self._asked_at is None:
            self._asked_at = now
            return Probe.ASK
        if not self._confirming:
            self._asked_at = now
            self._confirming = True
            return Probe.CONFIRM
        self.replaced()
        return Probe.WEDGED
