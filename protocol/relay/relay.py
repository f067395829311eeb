"""The relay: everything between an MCP client and the child that serves it, without I/O.

Frames, orders and times come in; frames and effects come out through `output`. The hot path is a request
passed on and its answer passed back: one decode, one table entry, the same bytes. Everything else here
exists so that the client does not notice when the child is another one.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec

from mcpkeep.protocol.relay.bound import Bound
from mcpkeep.protocol.relay.call import HELD
from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.child_side import ChildSide
from mcpkeep.protocol.relay.client_side import ClientSide
from mcpkeep.protocol.relay.framing import Frame
from mcpkeep.protocol.relay.health import Health, HealthSettings, Probe
from mcpkeep.protocol.relay.jsonrpc import RequestId
from mcpkeep.protocol.relay.lane import Lane
from mcpkeep.protocol.relay.listing import Listing
from mcpkeep.protocol.relay.minted import Minted
from mcpkeep.protocol.relay.notices import Notices
from mcpkeep.protocol.relay.opening import Opening
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.own_calls import OwnCalls
from mcpkeep.protocol.relay.own_requests import OwnRequests
from mcpkeep.protocol.relay.side import Between
from mcpkeep.protocol.relay.standing import Standing
from mcpkeep.protocol.relay.succession import Succession
from mcpkeep.protocol.relay.takeover import Takeover
from mcpkeep.protocol.relay.tools import OwnTool, ToolResult
from mcpkeep.protocol.switch import ChildWedged, RelayOrder

__all__ = ["Relay", "RelaySettings", "RelayStatus"]


class RelaySettings(msgspec.Struct, frozen=True):
    hold: float = 30.0
    """Seconds that a request waits for a child which is not up."""
    overlay: bool = True
    """Our tools hide the child's tools of the same name; otherwise the child's stand."""
    max_message: int = 10 * 1024 * 1024
    """The longest line of the child that is passed on, in bytes; told in the error that replaces one."""
    health: HealthSettings = HealthSettings()


class RelayStatus(msgspec.Struct, frozen=True):
    """The relay at one moment."""

    era: str
    protocol_version: str | None
    in_flight: int
    """Requests that a child has."""
    held: int
    """Requests that wait for a child."""
    server_tools: tuple[str, ...]
    """The child's tools as last listed."""
    tools_gone: tuple[str, ...]
    """Tools the client was given that a replacement took away."""


class Relay:
    """One client, and the children that serve it one after the other. Times are seconds of any one clock."""

    def __init__(self, *, own_tools: Sequence[OwnTool], settings: RelaySettings, own_prefix: str) -> None:
        """`own_prefix` begins the ids of our own requests; no client may use such ids."""
        self.output = Output()
        self.opening = Opening()
        self.listing = Listing(own_tools, overlay=settings.overlay)
        self.calls = Calls(self.output, self.listing, self.opening)
        self._settings = settings
        minted, standing = Minted(), Standing()
        self._health = Health(settings.health)
        self.lane = Lane(self.calls.table, listing=self.listing, opening=self.opening, health=self._health)
        self._takeover = Takeover(self.output, self.opening, self.listing, standing, prefix=own_prefix)
        self.own_requests = OwnRequests(self.output, opening=self.opening, takeover=self._takeover)
        self._notices = Notices(self.output, calls=self.calls, opening=self.opening, standing=standing)
        self._own_calls = OwnCalls(self.output, calls=self.calls, opening=self.opening)
        self._succession = Succession(
            self.output,
            calls=self.calls,
            opening=self.opening,
            listing=self.listing,
            standing=standing,
            minted=minted,
            health=self._health,
            takeover=self._takeover,
            lane=self.lane,
            own_requests=self.own_requests,
            tell_change=self._notices.tell_change,
        )
        self.own_requests.links = self._succession.links
        between = Between(
            out=self.output,
            calls=self.calls,
            opening=self.opening,
            listing=self.listing,
            minted=minted,
            bound=Bound(),
            health=self._health,
            succession=self._succession,
            takeover=self._takeover,
            notices=self._notices,
            own_requests=self.own_requests,
        )
        client = ClientSide(between, own_calls=self._own_calls, own_prefix=own_prefix)
        child = ChildSide(between, max_message=settings.max_message)
        # Methods of the two sides and not of our own, which would be one more call for each frame.
        self.from_client: Callable[[Sequence[Frame], float], None] = client.take
        """Take lines of the client, in order, at this time."""
        self.from_child: Callable[[int, Sequence[Frame], float], None] = child.take
        """Take lines of the child of a generation, in order, at this time."""

    @property
    def serving(self) -> int:
        """The generation that the client's requests go to; 0 while there is none."""
        return self._succession.serving.generation if self._succession.serving is not None else 0

    # From the child actor

    def order(self, order: RelayOrder, now: float) -> None:
        """What the child actor decided."""
        self._succession.order(order, now)

    # From ourselves

    def answer(self, id_: RequestId, result: ToolResult) -> None:
        """Our own tool has finished a call; nothing goes out where the client waits no longer."""
        self._own_calls.answer(id_, result)

    def progress(self, id_: RequestId, progress: float, total: float | None, text: str) -> None:
        """Our own tool is under way with a call; told where the client asked for progress."""
        self._own_calls.progress(id_, progress, total, text)

    @property
    def is_attended(self) -> bool:
        """Whether a client has opened its session, and a child serves it."""
        link = self._succession.serving
        return self.opening.is_told and link is not None and link.is_ready

    def notice(self, level: str, text: str) -> None:
        """Tell the client through its log, if it listens at that level (one of LOG_LEVELS)."""
        self._notices.tell(level, text)

    def early_notice(self, level: str, text: str) -> None:
        """The same, told to the client that is yet to come where none listens."""
        self._notices.tell_early(level, text)

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""
        link = self._succession.serving
        if not self._succession.holding:
            opening = now - link.since if link is not None else None
            self.calls.expire(now, self._settings.hold, self._succession.last_exit, opening=opening)
        if link is None or not link.is_ready:
            return
        probe = self._health.tick(now, busy=link.asked_by_us or self.calls.in_flight(link.generation))
        match probe:
            case Probe.ASK | Probe.CONFIRM:
                self._takeover.probe(link, confirm=probe is Probe.CONFIRM)
            case Probe.WEDGED:
                reason = "it is idle and answers neither of two different requests"
                self.output.effects.append(ChildWedged(link.generation, reason))
            case Probe.NOTHING:
                pass
            case _:
                assert_never(probe)

    def status(self) -> RelayStatus:
        """Where the client's session stands."""
        held = len(self.calls.at(HELD))
        return RelayStatus(
            era=self.opening.era.value,
            protocol_version=self.opening.version,
            in_flight=sum(call.generation > HELD for call in self.calls),
            held=held,
            server_tools=tuple(name for name in self.listing.tools if name is not None),
            tools_gone=tuple(name for name in self.listing.gone if name is not None),
        )

    def deadline(self) -> float | None:
        """When tick() is next due, or None. It may move with every input."""
        oldest = None if self._succession.holding else self.calls.oldest_hold()
        due = [oldest + self._settings.hold] if oldest is not None else []
        if (
            self._succession.serving is not None
            and self._succession.serving.is_ready
            and (health := self._health.deadline()) is not None
        ):
            due.append(health)
        return min(due, default=None)
