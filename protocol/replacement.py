"""A child prepared beside the one that serves, then promoted, dropped or frozen: the words for it."""

import enum
from typing import Annotated

import msgspec

from mcpkeep.protocol.question import Question
from mcpkeep.protocol.switch import Exit

__all__ = [
    "ChildPrepared",
    "DropOutcome",
    "DropPrepared",
    "Dropped",
    "EndFrozen",
    "Preparation",
    "PrepareChild",
    "PrepareFailed",
    "PrepareOutcome",
    "PromoteDone",
    "PromoteOutcome",
    "PromotePrepared",
    "ReplaceMode",
    "SwitchRefused",
]

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ReplaceMode(enum.Enum):
    """How a serving child is replaced on purpose."""

    OVERLAP = "overlap"
    """The new one starts beside the old one, which serves until the new one is ready."""
    HOLD = "hold"
    """Calls wait while the old one ends and the new one starts; for servers that bear no second instance."""


class Preparation(msgspec.Struct, frozen=True):
    """A successor on its way, from the order to prepare it until the switch, or its end, is over."""

    release: str | None
    hold: bool = False
    """Its predecessor is to be gone before it is started."""
    generation: int = 0
    """Its own, once it is promoted."""
    settles: int | None = None
    """Whoever asked to promote or drop waits until this generation is frozen or gone."""
    dropped: bool = False


class PrepareFailed(msgspec.Struct, frozen=True, tag="child.prepare_failed"):
    """The new child did not come up to its handshake, or did not stay until it was promoted."""

    reason: str
    kept: bool
    """Whether the old one still serves; where it was ended before, it is started again."""
    exit: Exit | None = None
    """How the new one ended, with the last lines of its stderr; None where mcpkeep gave it up."""


class ChildPrepared(msgspec.Struct, frozen=True, tag="child.prepared"):
    """The session is open with the new child, or it is frozen; it serves once it is promoted.

    Where no client has opened its session yet, the new child has only been started.
    """

    generation: int
    woken: bool = False
    """It is the frozen one, which is woken only by being promoted."""


class SwitchRefused(msgspec.Struct, frozen=True, tag="child.switch_refused"):
    """Nothing was done."""

    reason: str


class PromoteDone(msgspec.Struct, frozen=True, tag="child.promote_done"):
    """The prepared one serves, and its predecessor is frozen or gone."""

    generation: int
    frozen: bool


class Dropped(msgspec.Struct, frozen=True, tag="child.dropped"):
    """No prepared one is left."""


PrepareOutcome = ChildPrepared | PrepareFailed | SwitchRefused
PromoteOutcome = PromoteDone | PrepareFailed | SwitchRefused
DropOutcome = Dropped | SwitchRefused


class PrepareChild(Question[PrepareOutcome], frozen=True, tag="child.prepare"):
    """Start a child of this release and open the session with it, but let it not serve yet.

    The child that serves goes on, and its life with it: if it crashes meanwhile, its own release is started
    again, whatever is prepared. With `hold` it is ended first and calls wait; then the old release comes
    back where the new one fails or is dropped. Where nothing serves at all, calls wait in either mode.
    A frozen child of this release is prepared at once, and woken when it is promoted.
    """

    release: str | None
    mode: ReplaceMode | None = None
    """None is as the settings say."""


class PromotePrepared(Question[PromoteOutcome], frozen=True, tag="child.promote"):
    """Let the prepared child serve; its release is the child's from now on.

    Calls go to it at once. The answer comes when the old one, which has `drain` seconds to finish what is in
    flight, is frozen or gone.
    """

    freeze: bool = False
    """Stop the old one where it stands, instead of ending it."""
    drain: Seconds = 5.0


class DropPrepared(Question[DropOutcome], frozen=True, tag="child.drop"):
    """End the prepared child, if there is one; answered when it is gone. A woken one stays frozen."""


class EndFrozen(msgspec.Struct, frozen=True, tag="child.end_frozen"):
    """Kill the frozen child, if there is one."""
