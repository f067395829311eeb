"""How the client opened its session: its era, what it was told, and what brings a new child there."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from mcpkeep.protocol.relay.jsonrpc import JsonObject, decode_object, decode_text, encode_object
from mcpkeep.protocol.relay.mcp import CLIENT_CAPABILITIES, LOG_LEVEL, PROTOCOL_VERSION, SUBSCRIPTION_ID, Era

__all__ = ["UNCACHED", "Opening", "capabilities_of", "has_envelope"]

_EMPTY = Raw(b"{}")
_LISTED = ("tools", "prompts", "resources")


class Opening:
    """The client's side of the handshake, remembered for every child that comes after the first."""

    def __init__(self) -> None:
        self.era = Era.UNKNOWN
        self.initialized = False
        """The client has sent `notifications/initialized`."""
        self.session = 0
        """How often the client has opened a session."""
        self.version: str | None = None
        """The protocol version the client was told; frozen from then on, like the capabilities."""
        self.capabilities: frozenset[str] = frozenset()
        self._params: JsonObject = {}
        self._envelope: JsonObject = {}

    @property
    def is_told(self) -> bool:
        """The client has its answer to `initialize` or `server/discover`."""
        return self.version is not None

    def client_initializes(self, params: Raw) -> None:
        """The client opens (or opens again) a legacy session."""
        self.era = Era.LEGACY
        self.session += 1
        self.version = None
        self.initialized = False
        self._params = decode_object(bytes(params))

    def client_requests(self, params: Raw) -> None:
        """A request that carries a modern envelope; the newest one serves for requests of our own."""
        if self.era is not Era.MODERN:
            self.version = None
            self.session += 1
        meta = decode_object(decode_object(bytes(params)).get("_meta", _EMPTY))
        self.era = Era.MODERN
        self._envelope = {
            name: value
            for name, value in meta.items()
            if name.startswith("io.modelcontextprotocol/") and name not in (LOG_LEVEL, SUBSCRIPTION_ID)
        }

    def settle(self) -> None:
        """A child has answered a modern request: from now on every child has to speak this version."""
        self.version = decode_text(self._envelope.get(PROTOCOL_VERSION))

    def child_answers(self, result: Raw) -> Raw:
        """The answer to the opening request as the client gets it: ours merged into the child's."""
        members = decode_object(bytes(result))
        merged = decode_object(members.get("capabilities", _EMPTY))
        merged.setdefault("tools", _EMPTY)
        for name in _LISTED:
            if name in merged:
                merged[name] = encode_object({**decode_object(merged[name]), "listChanged": True})
        if self.era is Era.LEGACY:
            merged.setdefault("logging", _EMPTY)
            self.version = decode_text(members.get("protocolVersion"))
        else:
            members |= UNCACHED
        self.capabilities = frozenset(merged)
        members["capabilities"] = encode_object(merged)
        return encode_object(members)

    def client_can(self, capability: str) -> bool:
        """Whether the client takes requests of this kind. In the modern era it takes none from a server."""
        if self.era is not Era.LEGACY or not self.initialized:
            return False
        return capability in decode_object(self._params.get("capabilities", _EMPTY))

    def replay_params(self) -> Raw:
        """The params of the `initialize` that opens the session at another child."""
        return encode_object({**self._params, "protocolVersion": self.version})

    def own_params(self, params: Mapping[str, object] | None = None) -> Raw | None:
        """Params for a request of our own, with the client's envelope where its era wants one."""
        members = dict(params or {})
        if self.era is Era.MODERN:
            members["_meta"] = self._envelope
        return encode_object(members) if members else None

    def refusal_of(self, result: Raw) -> str | None:
        """Why this answer to the replayed `initialize` cannot take the session over, or None if it can."""
        members = decode_object(result)
        if self.era is Era.LEGACY:
            answered = bytes(members.get("protocolVersion", b"null"))
            speaks = decode_text(Raw(answered)) == self.version
        else:
            answered = bytes(members.get("supportedVersions", b"null"))
            speaks = self.version in _texts(Raw(answered))
        if speaks:
            return None
        shown = answered[:200].decode(errors="replace")
        return f"it speaks protocol version {shown}, and this session was opened with {self.version!r}"


UNCACHED: JsonObject = {"ttlMs": Raw(b"0"), "cacheScope": Raw(b'"private"')}
"""Merged results must not be kept: ours and the child's change apart from each other."""


def capabilities_of(result: Raw) -> frozenset[str]:
    """The names of the capabilities in the answer to an opening request."""
    return frozenset(decode_object(decode_object(result).get("capabilities", _EMPTY)))


def has_envelope(params: Raw) -> bool:
    """Whether a modern request carries what each must: its protocol version and the client's capabilities."""
    meta = decode_object(decode_object(params).get("_meta", _EMPTY))
    return PROTOCOL_VERSION in meta and CLIENT_CAPABILITIES in meta


def _texts(raw: Raw) -> list[str]:
    try:
        return msgspec.json.decode(raw, type=list[str])
    except msgspec.DecodeError:
        return []
