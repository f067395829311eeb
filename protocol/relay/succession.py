"""Which child serves: the orders of the child actor, and what each means for the client's requests."""

from collections.abc import Callable, Iterable
from typing import assert_never

from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.health import Health
from mcpkeep.protocol.relay.jsonrpc import encode_notification
from mcpkeep.protocol.relay.lane import Lane
from mcpkeep.protocol.relay.link import Link
from mcpkeep.protocol.relay.listing import Listing, ListingChange
from mcpkeep.protocol.relay.mcp import Loss
from mcpkeep.protocol.relay.minted import Minted
from mcpkeep.protocol.relay.opening import Opening
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.own_requests import OwnRequests
from mcpkeep.protocol.relay.standing import Standing
from mcpkeep.protocol.relay.takeover import Takeover
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildExited,
    ChildFrozen,
    ChildPromoted,
    ChildReady,
    ChildRefused,
    ChildThawed,
    ChildUnavailable,
    Exit,
    RelayOrder,
    describe_exit,
)

__all__ = ["Succession"]


class Succession:
    """The children that have a link, and the one among them that serves.

    What names a generation without a link has no effect: a late word about an old child moves nothing.
    """

    def __init__(
        self,
        out: Output,
        *,
        calls: Calls,
        opening: Opening,
        listing: Listing,
        standing: Standing,
        minted: Minted,
        health: Health,
        takeover: Takeover,
        lane: Lane,
        own_requests: OwnRequests,
        tell_change: Callable[[ListingChange], None],
    ) -> None:
        self.links: dict[int, Link] = {}
        self._frozen: dict[int, Link] = {}
        self.serving: Link | None = None
        self.holding = False
        """A planned replacement lets the client's requests wait."""
        self.unavailable: ChildUnavailable | None = None
        """Why no child will come up by itself."""
        self.last_exit: Exit | None = None
        self._out = out
        self._calls = calls
        self._opening = opening
        self._listing = listing
        self._standing = standing
        self._minted = minted
        self._health = health
        self._takeover = takeover
        self._lane = lane
        self._own_requests = own_requests
        self._tell_change = tell_change

    def order(self, order: RelayOrder, now: float) -> None:
        """Do what the child actor decided."""
        match order:
            case ChildAttached(generation, beside):
                self._attach(Link(generation, now), beside=beside)
            case ChildPromoted(generation):
                self._promote(generation, now)
            case ChildFrozen():
                self._freeze(order, now)
            case ChildThawed(generation):
                self._thaw(generation)
            case CallsHeld():
                self.holding = True
                if self.serving is not None:
                    self.check_drained(self.serving)
            case ChildExited():
                self._exited(order, now)
            case ChildUnavailable():
                self.unavailable = order
                self.holding = False
                self._fail_held(order)
            case _:
                assert_never(order)
        self._set_lane()

    def ready(self, link: Link) -> None:
        """The session is open with this child."""
        if link.is_ready:
            return
        link.is_ready = True
        self._opened(link)
        self._out.effects.append(ChildReady(link.generation))
        if link is self.serving:
            self._catch_up(link)
        self._set_lane()

    def check_drained(self, link: Link) -> None:
        """Tell the child actor once nothing is in flight at a child that waits to end."""
        waits = link.is_draining or (self.holding and link is self.serving)
        if waits and not link.is_drained and not self._calls.in_flight(link.generation):
            link.is_drained = True
            self._out.effects.append(ChildDrained(link.generation))

    def share(self, call: Call) -> None:
        """What the client has set at one child holds for all, those that are open now and those to come."""
        self._standing.note(call)
        name = "level" if call.method == "logging/setLevel" else "uri"
        for link in self.links.values():
            if link.generation != call.generation and link.is_open:
                self._takeover.repeat(link, call.method, {name: call.subject})

    def _set_lane(self) -> None:
        link = self.serving
        plain = link is not None and link.is_open and link.is_ready and len(self.links) == 1
        self._lane.link = link if plain and not self.holding else None

    def _attach(self, link: Link, *, beside: bool) -> None:
        self.links[link.generation] = link
        if not beside:
            self.unavailable = None
            if self.serving is None:
                self.serving = link
        if link is not self.serving and not self._opening.is_told:
            # The client has yet to open its session, and does so with whichever child serves by then.
            self._out.effects.append(ChildReady(link.generation))
            return
        self._takeover.open(link)
        if link.is_open:
            self._opened(link)

    def _opened(self, link: Link) -> None:
        if link is self.serving:
            self.holding = False
            self._let_go(link)

    def _promote(self, generation: int, now: float) -> None:
        link, old = self.links.get(generation), self.serving
        if link is None or link is old:
            return
        self.serving = link
        self.unavailable = None
        self._health.replaced()
        if link.is_fresh:
            self._takeover.open(link)
        if old is not None:
            old.is_draining = True
            old.is_open &= old.is_ready  # no `initialized` for a child that was not even initialized
            for call in self._calls.at(old.generation):
                if call.loss is Loss.RESEND:
                    self._calls.hold(call, now)
                    if call.method == "subscriptions/listen":  # else it had two of that id when it is woken
                        cancelled: dict[str, object] = {"requestId": call.id}
                        self._out.to_child(old, encode_notification("notifications/cancelled", cancelled))
        if link.is_open:
            self._opened(link)
        if link.is_ready:
            self._catch_up(link)
        if old is not None:
            self.check_drained(old)

    def _catch_up(self, link: Link) -> None:
        """Another child serves than the client last heard: what may have changed for it?"""
        if self.last_exit is None and len(self.links) == 1:
            return
        self.list_again(self._listing.given_methods())
        for uri in self._standing.uris:
            self._out.client.append(encode_notification("notifications/resources/updated", {"uri": uri}))

    def list_again(self, methods: Iterable[str]) -> None:
        """The client was given these lists by another child than serves: find what differs."""
        if self.serving is not None and self.serving.is_ready:
            for change in self._takeover.list_again(self.serving, methods):
                self._tell_change(change)

    def _freeze(self, frozen: ChildFrozen, now: float) -> None:
        """To the client it is as if it were gone; its link waits aside, and so does its session."""
        link = self.links.pop(frozen.generation, None)
        if link is None:
            return
        self._frozen[link.generation] = link
        link.uris = tuple(self._standing.uris)
        opened = link.is_ready and self._opening.is_told
        link.session = self._opening.session if opened else 0
        link.is_initialized = self._opening.initialized
        self._forget(link, "the MCP server was replaced")
        self._calls.lose(link, None, accepted=frozen.accepted, planned=True, now=now)
        self._release()

    def _thaw(self, generation: int) -> None:
        link = self._frozen.pop(generation, None)
        if link is None:
            return
        self.links[generation] = link
        link.is_draining = link.is_drained = False
        link.is_open = self._takeover.wake(link)
        if not link.is_open:
            reason = "the client has opened another session since it was frozen"
            self._out.effects.append(ChildRefused(generation, reason))

    def _exited(self, exited: ChildExited, now: float) -> None:
        self._frozen.pop(exited.generation, None)
        link = self.links.pop(exited.generation, None)
        if link is None:
            return
        self.last_exit = exited.exit
        self._forget(link, f"the MCP server {describe_exit(exited.exit)}")
        if link is self.serving:
            self.serving = None
            self._health.replaced()
            if self.holding:
                self.holding = False
                self._calls.hold_anew(now)
        self._calls.lose(link, exited.exit, accepted=exited.accepted, planned=exited.planned, now=now)
        self._release()

    def _forget(self, link: Link, reason: str) -> None:
        """Nobody waits any more for what this child had asked, or was asked by us."""
        for id_ in self._minted.forget(link.generation):
            params: dict[str, object] = {"requestId": id_, "reason": reason}
            self._out.client.append(encode_notification("notifications/cancelled", params))
        self._own_requests.lose(link, reason)

    def _release(self) -> None:
        """Let go what a lost child's calls have become."""
        if self.unavailable is not None:
            self._fail_held(self.unavailable)
        elif self.serving is not None and self.serving.is_open and not self.holding:
            self._let_go(self.serving)

    def _let_go(self, link: Link) -> None:
        """Hand to the child all that waits for one; ahead of the first call, learn what its tool is."""
        tools = self._listing.tools
        if any(call.method == "tools/call" and call.subject not in tools for call in self._calls.held()):
            self._takeover.learn_tools(link)
        self._calls.release(link)

    def _fail_held(self, unavailable: ChildUnavailable) -> None:
        for call in self._calls.held():
            self._calls.fail_unavailable(call, unavailable.exit, unavailable.detail)
