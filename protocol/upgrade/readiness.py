"""How long a booting server is waited for: silence ends the wait, output and work extend it, to a cap.

All times are seconds on any one clock; processor time is that of the server's whole process tree.
"""

import enum

import msgspec

__all__ = ["BUSY_SHARE", "CAP_LIMIT", "SILENCE_LIMIT", "Patience", "Wait", "WaitVerdict", "begin_wait"]

SILENCE_LIMIT = 30.0
"""Contract: a warm start of the real server took 33 s at its worst, and it logs all the while."""

CAP_LIMIT = 900.0
"""Contract: 15 minutes; the longest index build that was measured took 372 s."""

BUSY_SHARE = 0.02
"""Of one core, over the silence limit, from which on a silent server counts as working. An idle one's timers
stay below 0.5 %; a build that gets its turn on a machine under load 9 stays above 10 %.
"""

POLLS = 10
"""Looks per silence limit: the limit is kept to a tenth of itself."""


class Patience(msgspec.Struct, frozen=True):
    """The limits, which tests make short."""

    silence: float = SILENCE_LIMIT
    cap: float = CAP_LIMIT

    @property
    def pause(self) -> float:
        """How long to wait between two looks."""
        return self.silence / POLLS


class WaitVerdict(enum.Enum):
    """What to do now."""

    WAIT = "wait"
    SILENT = "silent"
    """It has neither written nor worked for the silence limit."""
    OVERDUE = "overdue"
    """It has been busy for the cap, and is not ready."""


class Wait(msgspec.Struct, frozen=True):
    """One wait, from the spawn on."""

    patience: Patience
    since: float
    sign_at: float
    """When it last showed a sign of life, as far as anybody looked."""
    output: int = 0
    """Bytes it had written by then."""
    cpu: float = 0.0
    """Its processor time at the last sign."""

    def look(self, now: float, *, output: int, cpu: float) -> "Wait":
        """Take note of what it has written and used in all.

        A lower processor time than before starts the count anew: a part of the tree is gone with its share.
        """
        worked = cpu - self.cpu >= BUSY_SHARE * self.patience.silence
        if output != self.output or worked:
            return Wait(self.patience, self.since, now, output, cpu)
        return Wait(self.patience, self.since, self.sign_at, output, min(cpu, self.cpu))

    def verdict(self, now: float) -> WaitVerdict:
        if now - self.sign_at >= self.patience.silence:
            return WaitVerdict.SILENT
        if now - self.since >= self.patience.cap:
            return WaitVerdict.OVERDUE
        return WaitVerdict.WAIT


def begin_wait(patience: Patience, now: float) -> Wait:
    """Begin when the server is spawned."""
    return Wait(patience, now, now)
