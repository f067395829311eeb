"""When a child that ended is started again: OTP's words and rules, as a function of times.

The first restart after a healthy run is immediate; backoff is for repeats, and ends by sustained uptime,
never by a mere spawn.
"""

import enum
from typing import Annotated

import msgspec

from mcpkeep.protocol.switch import Exit

__all__ = ["Decision", "GiveUp", "Restart", "RestartPolicy", "RestartType", "Stay", "Tally", "decide"]

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RestartType(enum.Enum):
    """Which ends call for a restart; the names and meanings are OTP's."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Only after an abnormal end: a signal, an exit code other than 0, a failed start."""
    TEMPORARY = "temporary"
    """Never."""


class RestartPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How eagerly a child is restarted. All durations are seconds."""

    type: RestartType = RestartType.PERMANENT
    intensity: Annotated[int, msgspec.Meta(ge=0)] = 5
    """This many restarts within `period` are made, the next is not; 0 sets no bound."""
    period: Seconds = 60.0
    backoff_base: Seconds = 0.1
    """The first delay; 0 turns backoff off."""
    backoff_factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    backoff_max: Seconds = 30.0
    healthy_after: Seconds = 10.0
    """A child that was ready for this long wipes the tally of those before it."""


class Tally(msgspec.Struct, frozen=True):
    """The restarts since the last healthy run."""

    streak: int = 0
    recent: tuple[float, ...] = ()
    """When those within the period were decided, oldest first; at most `intensity` of them."""


class Restart(msgspec.Struct, frozen=True, tag="restart.restart"):
    """Start again after so many seconds, and remember this tally."""

    after: float
    tally: Tally


class Stay(msgspec.Struct, frozen=True, tag="restart.stay"):
    """The child ended as its type allows; it stays down."""


class GiveUp(msgspec.Struct, frozen=True, tag="restart.give_up"):
    """Another restart would not help."""

    reason: str


Decision = Restart | Stay | GiveUp


def decide(
    policy: RestartPolicy,
    tally: Tally,
    *,
    exit_: Exit,
    ready_since: float | None,
    proven: bool,
    now: float,
    chance: float,
) -> Decision:
    """Say what follows an end that nobody asked for.

    Args:
        ready_since: when the child that ended became ready; None if it never was.
        proven: whether any child of this command was ever ready. If none was, a command that cannot be
            executed is given up at once, as it does not exist rather than fails.
        now: the time, in seconds, on the clock of `ready_since` and the tally.
        chance: from 0 to 1; a delay is spread by it over the upper half of its length.
    """
    if policy.type is RestartType.TEMPORARY:
        return Stay()
    if policy.type is RestartType.TRANSIENT and exit_.code == 0:
        return Stay()
    if exit_.spawn_error is not None and not proven:
        return GiveUp("it has never run")
    if ready_since is not None and now - ready_since >= policy.healthy_after:
        tally = Tally()
    recent: tuple[float, ...] = ()
    if policy.intensity:
        recent = tuple(then for then in tally.recent if now - then < policy.period)
        if len(recent) >= policy.intensity:
            return GiveUp(f"it was restarted {len(recent)} times within {policy.period:g} s")
        recent = (*recent, now)
    first = tally.streak == 0 and ready_since is not None
    after = 0.0 if first else _backoff(policy, tally.streak) * (0.5 + 0.5 * chance)
    return Restart(after, Tally(tally.streak + 1, recent))


def _backoff(policy: RestartPolicy, streak: int) -> float:
    try:
        delay = policy.backoff_base * policy.backoff_factor ** max(0, streak - 1)
    except OverflowError:  # a long streak; 0 times the infinite is still no delay
        delay = policy.backoff_max if policy.backoff_base else 0.0
    return min(delay, policy.backoff_max)
