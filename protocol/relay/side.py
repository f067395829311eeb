"""What the client's side of the relay and the child's have in common: all that stands between the two."""

from typing import NamedTuple

from mcpkeep.protocol.relay.bound import Bound
from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.health import Health
from mcpkeep.protocol.relay.listing import Listing
from mcpkeep.protocol.relay.minted import Minted
from mcpkeep.protocol.relay.notices import Notices
from mcpkeep.protocol.relay.opening import Opening
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.own_requests import OwnRequests
from mcpkeep.protocol.relay.succession import Succession
from mcpkeep.protocol.relay.takeover import Takeover

__all__ = ["Between", "Side"]


class Between(NamedTuple):
    out: Output
    calls: Calls
    opening: Opening
    listing: Listing
    minted: Minted
    bound: Bound
    health: Health
    succession: Succession
    takeover: Takeover
    notices: Notices
    own_requests: OwnRequests


class Side:
    def __init__(self, between: Between) -> None:
        # Each an attribute of its own: every frame asks for some of them.
        self._out = between.out
        self._calls = between.calls
        self._opening = between.opening
        self._listing = between.listing
        self._minted = between.minted
        self._bound = between.bound
        self._health = between.health
        self._succession = between.succession
        self._takeover = between.takeover
        self._notices = between.notices
        self._own_requests = between.own_requests
        self._links = between.succession.links
        self._table = between.calls.table
