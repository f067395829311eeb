"""Bringing a child to where the client's session stands, and learning what it offers, by our own requests."""

from collections.abc import Iterable, Mapping

from msgspec import UNSET, Raw
from msgspec.structs import replace

from mcpkeep.protocol.relay.head import Head
from mcpkeep.protocol.relay.jsonrpc import decode_message, encode_notification, encode_request
from mcpkeep.protocol.relay.link import Link, OwnRequest, Purpose
from mcpkeep.protocol.relay.listing import Listing, ListingChange
from mcpkeep.protocol.relay.mcp import LIST_KINDS, Era
from mcpkeep.protocol.relay.opening import Opening, capabilities_of
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.standing import Standing

__all__ = ["Takeover"]

_MAX_PAGES = 100
"""A list with more pages is taken as changed: a server that never ends one must not keep us asking."""


class Takeover:
    """Our own requests to the children. Their ids start with `prefix`, which no client's id does."""

    def __init__(
        self, out: Output, opening: Opening, listing: Listing, standing: Standing, *, prefix: str
    ) -> None:
        self._out = out
        self._opening = opening
        self._listing = listing
        self._standing = standing
        self._prefix = prefix
        self._asked = 0

    def open(self, link: Link) -> None:
        """Begin with a new child in the client's own era: it is locked to that of its first request.

        A modern child is open at once, since each request carries all it needs. A legacy one is open once it
        has answered the replayed `initialize`; before the client has an answer to its own, that one goes out
        again instead.
        """
        if not self._opening.is_told:
            link.is_open = True
        elif self._opening.era is Era.LEGACY:
            self._ask(link, Purpose.OPEN, "initialize", self._opening.replay_params())
        else:
            self._ask(link, Purpose.OPEN, "server/discover", self._opening.own_params())
            link.is_open = True

    def opened(self, link: Link, head: Head, line: bytes) -> str | None:
        """The child has answered our opening request: bring it level. Why it cannot take over, or None."""
        if head.result is None:
            error = bytes(head.error)[:500] if head.error is not UNSET else b""
            return f"it answers the opening request with the error {error.decode(errors='replace')}"
        result = decode_message(line).result
        if (refusal := self._opening.refusal_of(result)) is not None:
            return refusal
        link.capabilities = capabilities_of(result)
        if self._opening.initialized:
            self._out.to_child(link, encode_notification("notifications/initialized"))
        if self._opening.era is Era.LEGACY:
            for method, params in self._standing.requests(logging="logging" in link.capabilities):
                self._ask(link, Purpose.STANDING, method, self._opening.own_params(params))
        link.is_open = True
        return None

    def wake(self, link: Link) -> bool:
        """Bring a child that was frozen level with the client's session; False if that is another by now."""
        if link.session != self._opening.session:
            return False
        if self._opening.era is Era.MODERN:
            return True  # each request tells all it needs
        if self._opening.initialized:
            if not link.is_initialized:
                self._out.to_child(link, encode_notification("notifications/initialized"))
            elif self._opening.client_can("roots"):
                self._out.to_child(link, encode_notification("notifications/roots/list_changed"))
        for uri in link.uris:
            if uri not in self._standing.uris:
                self.repeat(link, "resources/unsubscribe", {"uri": uri})
        for method, params in self._standing.requests(logging="logging" in (link.capabilities or ())):
            if params.get("uri") not in link.uris:
                self.repeat(link, method, params)
        return True

    def ask(self, link: Link, method: str, params: Mapping[str, object] | None) -> str:
        """Ask for somebody in mcpkeep; the id of the request."""
        self._ask(link, Purpose.ASKED, method, self._opening.own_params(params))
        return f"{self._prefix}{self._asked}"

    def repeat(self, link: Link, method: str, params: Mapping[str, object]) -> None:
        """Tell a second child what the client has just set at the first."""
        if (
            method == "logging/setLevel"
            and link.capabilities is not None
            and "logging" not in link.capabilities
        ):
            return
        self._ask(link, Purpose.STANDING, method, self._opening.own_params(params))

    def list_again(self, link: Link, methods: Iterable[str]) -> list[ListingChange]:
        """Ask for lists that the client was given, to compare; what changed where the child has none."""
        changes: list[ListingChange] = []
        for method in methods:
            kind = LIST_KINDS[method]
            if link.capabilities is None or kind.capability in link.capabilities:
                asked = next((id_ for id_, own in link.own.items() if own.lists(method)), None)
                if asked is None:
                    self._ask_list(link, method, compare=True)
                else:
                    link.own[asked] = replace(link.own[asked], compare=True)
                continue
            self._listing.fresh_page(method, Raw(b"{}"), first=True)
            if (change := self._listing.compare(method)) is not None:
                changes.append(change)
        return changes

    def learn_tools(self, link: Link) -> None:
        """Ask for the tools once, so that their annotations are known; never before `initialized`."""
        modern = self._opening.era is Era.MODERN
        has_tools = modern if link.capabilities is None else "tools" in link.capabilities
        if has_tools and (modern or self._opening.initialized):
            asked = any(own.lists("tools/list") for own in link.own.values())
            if not asked and "tools/list" not in link.pages:
                self._ask_list(link, "tools/list", compare=False)

    def listed(self, link: Link, own: OwnRequest, head: Head, line: bytes) -> ListingChange | None:
        """One page of our own listing has come: ask for the next, or tell what changed."""
        page = 1 if own.first_page else link.pages.get(own.method, 0) + 1
        link.pages[own.method] = page
        cursor: str | None = None
        if head.result is not None and page <= _MAX_PAGES:
            result = decode_message(line).result
            cursor = self._listing.fresh_page(own.method, result, first=own.first_page)
        elif own.compare:
            return self._listing.unknown(own.method)
        if cursor is not None:
            self._ask_list(link, own.method, compare=own.compare, cursor=cursor)
            return None
        return self._listing.compare(own.method) if own.compare else None

    def probe(self, link: Link, *, confirm: bool) -> None:
        """Ask whether the child still answers; the second time by a request of another kind."""
        capabilities = link.capabilities or frozenset()
        first = "ping" if self._opening.era is not Era.MODERN else "server/discover"
        method = first
        if confirm:
            method = next((m for m, kind in LIST_KINDS.items() if kind.capability in capabilities), first)
        self._ask(link, Purpose.HEALTH, method, self._opening.own_params())

    def _ask_list(self, link: Link, method: str, *, compare: bool, cursor: str | None = None) -> None:
        params = self._opening.own_params({"cursor": cursor} if cursor is not None else None)
        self._ask(link, Purpose.LIST, method, params, first_page=cursor is None, compare=compare)

    def _ask(
        self,
        link: Link,
        purpose: Purpose,
        method: str,
        params: Raw | None,
        *,
        first_page: bool = True,
        compare: bool = False,
    ) -> None:
        self._asked += 1
        id_ = f"{self._prefix}{self._asked}"
        link.own[id_] = OwnRequest(purpose, method, first_page, compare)
        self._out.to_child(link, encode_request(id_, method, params))
