"""What the relay wants done: frames for either side, in order, and effects for whoever drives it."""

from typing import Literal, TypeAlias

import msgspec

from mcpkeep.protocol.relay.jsonrpc import RequestId
from mcpkeep.protocol.relay.link import Link
from mcpkeep.protocol.relay.tools import ToolCalled
from mcpkeep.protocol.switch import ChildDrained, ChildReady, ChildRefused, ChildWedged

__all__ = ["Logged", "Output", "RelayEffect", "ToolCancelled"]


class ToolCancelled(msgspec.Struct, frozen=True, tag="relay.tool_cancelled"):
    """Nobody waits for this call of one of our own tools any more."""

    id: RequestId


class Logged(msgspec.Struct, frozen=True, tag="relay.logged"):
    """Something for mcpkeep's own log."""

    level: Literal["debug", "info", "warning"]
    text: str


RelayEffect: TypeAlias = (
    ToolCalled | ToolCancelled | Logged | ChildReady | ChildRefused | ChildDrained | ChildWedged
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
