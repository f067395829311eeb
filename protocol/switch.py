"""What the child actor and the relay tell each other about which child serves.

The child actor owns processes, the relay owns messages. Every event names the generation it is about,
so that a late word about an old child moves nothing.
"""

import msgspec

__all__ = [
    "CallsHeld",
    "ChildAttached",
    "ChildDrained",
    "ChildExited",
    "ChildFrozen",
    "ChildPromoted",
    "ChildReady",
    "ChildRefused",
    "ChildThawed",
    "ChildUnavailable",
    "ChildWedged",
    "Exit",
    "RelayOrder",
    "RelayReport",
    "describe_exit",
]


class Exit(msgspec.Struct, frozen=True, tag="child.exit"):
    """How a process ended, or why it never began; exactly one of the first three is set."""

    code: int | None = None
    signal: str | None = None
    """The signal's name, such as `SIGKILL`."""
    spawn_error: str | None = None
    """Why the command could not be executed at all."""
    stderr_tail: tuple[str, ...] = ()
    """The last lines the process wrote to stderr, oldest first."""


def describe_exit(exit_: Exit) -> str:
    """Say in a few words how the process ended, such as `was killed by SIGKILL`."""
    if exit_.spawn_error is not None:
        return f"could not be started: {exit_.spawn_error}"
    if exit_.signal is not None:
        return f"was killed by {exit_.signal}"
    return f"exited with code {exit_.code}"


# Orders: the child actor tells the relay.


class ChildAttached(msgspec.Struct, frozen=True, tag="relay.child_attached"):
    """A process runs and its pipes are open; the relay opens the session with it and reports ChildReady.

    The first child attached while none serves becomes the serving one; a later one waits as candidate.
    """

    generation: int
    beside: bool = False
    """It waits as candidate even where none serves."""


class ChildPromoted(msgspec.Struct, frozen=True, tag="relay.child_promoted"):
    """The ready candidate serves from now on; the former one drains, and ChildDrained says when."""

    generation: int


class ChildFrozen(msgspec.Struct, frozen=True, tag="relay.child_frozen"):
    """A former child is stopped where it stands: what it still had is lost, and it gets and says nothing."""

    generation: int
    accepted: int
    """As in ChildExited."""


class ChildThawed(msgspec.Struct, frozen=True, tag="relay.child_thawed"):
    """A frozen child runs again, as a candidate that has its session; it is brought level with the client."""

    generation: int


class CallsHeld(msgspec.Struct, frozen=True, tag="relay.calls_held"):
    """New requests wait until another child serves; ChildDrained comes when none is in flight."""


class ChildExited(msgspec.Struct, frozen=True, tag="relay.child_exited"):
    """The process is gone and everything it wrote has been read."""

    generation: int
    exit: Exit
    accepted: int
    """How many bytes of what the relay sent it the kernel took; what lies beyond never reached it."""
    planned: bool = False
    """True where mcpkeep ended it, so that what is lost is told as `child_replaced`."""


class ChildUnavailable(msgspec.Struct, frozen=True, tag="relay.child_unavailable"):
    """No child serves and none will by itself: what waits is answered with an error."""

    exit: Exit
    detail: str
    """Whole sentences for the client: what happened, and what to do."""


RelayOrder = (
    ChildAttached | ChildPromoted | ChildFrozen | ChildThawed | CallsHeld | ChildExited | ChildUnavailable
)


# Reports: the relay tells the child actor.


class ChildReady(msgspec.Struct, frozen=True, tag="child.ready"):
    """The session is open with this child, and it may serve."""

    generation: int


class ChildRefused(msgspec.Struct, frozen=True, tag="child.refused"):
    """This child cannot take the session over, such as when it answers another protocol version."""

    generation: int
    reason: str


class ChildDrained(msgspec.Struct, frozen=True, tag="child.drained"):
    """Nothing is in flight at this child any more; it may end."""

    generation: int


class ChildWedged(msgspec.Struct, frozen=True, tag="child.wedged"):
    """This child runs but cannot be used: it answers no health check, or broke the protocol for good."""

    generation: int
    reason: str


RelayReport = ChildReady | ChildRefused | ChildDrained | ChildWedged
