"""One child as the relay sees it: what it was sent, what we asked it ourselves, and how far it is."""

import enum

import msgspec

__all__ = ["Link", "OwnRequest", "Purpose"]


class Purpose(enum.Enum):
    """Why we sent a child a request of our own; the client never sees its answer."""

    OPEN = "open"
    """Bring it to where the client's session stands."""
    STANDING = "standing"
    """The log level and the subscriptions that the client has set."""
    LIST = "list"
    """What it offers, to compare with what the client was given."""
    HEALTH = "health"
    ASKED = "asked"
    """Somebody in mcpkeep wants to know, and waits for the answer."""


class OwnRequest(msgspec.Struct, frozen=True):
    purpose: Purpose
    method: str
    first_page: bool = True
    compare: bool = False

    def lists(self, method: str) -> bool:
        """Whether it asks for this list, so that another such request beside it would mix their pages."""
        return self.purpose is Purpose.LIST and self.method == method


class Link(msgspec.Struct):
    """The relay's end of one child."""

    generation: int
    since: float = 0.0
    """When it was attached, in seconds."""
    is_open: bool = False
    """The client's requests may go to it."""
    is_ready: bool = False
    """The session is open with it, and the child actor knows."""
    is_draining: bool = False
    is_drained: bool = False
    """The child actor knows that nothing is in flight here."""
    is_fresh: bool = True
    """Nothing was asked of it yet."""
    is_wedged: bool = False
    """The child actor knows that it cannot be used."""
    sent: int = 0
    """Bytes sent to it."""
    asked: int = 0
    """Requests it has issued to the client."""
    own: dict[str, OwnRequest] = msgspec.field(default_factory=dict[str, OwnRequest])
    pages: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """By method, how many pages of our own listing have come."""
    capabilities: frozenset[str] | None = None
    """As it announced them itself; None until it has."""
    uris: tuple[str, ...] = ()
    """Of a frozen one, the resources that it believes the client is subscribed to."""
    session: int = 0
    """Of a frozen one, which opening of the client's session it has seen, and"""
    is_initialized: bool = False
    """whether the client had finished that opening by then."""

    @property
    def asked_by_us(self) -> bool:
        """Whether it owes an answer that somebody in mcpkeep waits for."""
        return any(own.purpose is Purpose.ASKED for own in self.own.values())
