"""What the relay wants done: frames for either side, in order, and effects for whoever drives it."""

from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw

from mcpkeep.protocol.relay.jsonrpc import RequestId
from mcpkeep.protocol.relay.link import Link
from mcpkeep.protocol.relay.tools import ToolCalled
from mcpkeep.protocol.switch import ChildDrained, ChildReady, ChildRefused, ChildWedged

__all__ = ["Logged", "Output", "OwnAnswered", "RelayEffect", "ToolCancelled"]


class ToolCancelled(msgspec.Struct, frozen=True, tag="relay.tool_cancelled"):
    """Nobody waits for this call of one of our own tools any more."""

    id: RequestId


class Logged(msgspec.Struct, frozen=True, tag="relay.logged"):
    """Something for mcpkeep's own log."""

    level: Literal["debug", "info", "warning"]
    text: str


class OwnAnswered(msgspec.Struct, frozen=True, tag="relay.own_answered"):
    """A request of our own to a child or the client has its answer, or never gets one."""

    id: str
    result: Raw | None = None
    error: Raw | None = None
    """The `error` member of the answer."""
    lost: str | None = None
    """Why there is no answer; exactly one of the three is set."""


RelayEffect: TypeAlias = (
    ToolCalled | ToolCancelled | OwnAnswered | Logged | ChildReady | ChildRefused | ChildDrained | ChildWedged
)


class Output:
    """Filled by the relay; emptied by its driver after each input."""

    def __init__(self) -> None:
        self.client: list[bytes] = []
        self.child: dict[int, list[bytes]] = {}
        """By generation."""
        self.effects: list[RelayEffect] = []

    def to_child(self, link: Link, frame: bytes) -> None:
        link.sent += len(frame)
        link.is_fresh = False
        frames = self.child.get(link.generation)
        if frames is None:
            self.child[link.generation] = [frame]
        else:
            frames.append(frame)

    def log(self, level: Literal["debug", "info", "warning"], text: str) -> None:
        self.effects.append(Logged(level, text))
