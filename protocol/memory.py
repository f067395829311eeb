"""When a child that holds too much memory is replaced, so that a limit set too low is no loop of restarts."""

import msgspec
from msgspec.structs import replace

__all__ = ["Guard", "Verdict", "judge_memory"]

FIRST_PAUSE = 60.0
"""Seconds between one replacement and the next, where the first did not help for long."""

LONGEST_PAUSE = 3600.0


class Guard(msgspec.Struct, frozen=True):
    """What is remembered between measurements. Times are seconds of any one clock."""

    limit: int
    """Bytes."""
    last: float | None = None
    """When it was last told to replace the child."""
    pause: float = FIRST_PAUSE
    told: bool = False
    """Whether the present pause was told."""


class Verdict(msgspec.Struct, frozen=True):
    """What follows from one measurement; at most one of the two is set."""

    restart: str | None = None
    """Replace the child, for this reason."""
    warning: str | None = None
    """Tell this, and leave the child alone."""


def judge_memory(guard: Guard, held: int, now: float) -> tuple[Guard, Verdict]:
    """Decide over a child that holds `held` bytes at `now`.

    The first time above the limit it is replaced at once. One that is above it again within the pause stays
    until that is over, which is told once, and the pause doubles; a child that keeps below the limit for
    twice the pause ends that.
    """
    if guard.last is not None and now - guard.last >= 2 * guard.pause:
        guard = Guard(guard.limit)
    if held <= guard.limit:
        return guard, Verdict()
    what = f"its process tree holds {_mib(held)}, above limits.memory = {_mib(guard.limit)}"
    if guard.last is None:
        return replace(guard, last=now), Verdict(restart=what)
    if now < guard.last + guard.pause:
        if guard.told:
            return guard, Verdict()
        text = (
            f"the server was replaced for its memory {now - guard.last:.0f} s ago, and again {what}; "
            f"it stays for {guard.last + guard.pause - now:.0f} s more. Raise the limit if it needs as much"
        )
        return replace(guard, told=True), Verdict(warning=text)
    return Guard(guard.limit, now, min(2 * guard.pause, LONGEST_PAUSE)), Verdict(restart=what)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
