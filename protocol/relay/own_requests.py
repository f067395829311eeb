"""Requests that somebody in mcpkeep makes, of a child or of the client; no peer sees the other's answer."""

from collections.abc import Mapping

from msgspec import UNSET

from mcpkeep.protocol.relay.head import Head
from mcpkeep.protocol.relay.jsonrpc import (
    JsonObject,
    decode_message,
    encode_notification,
    encode_object,
    encode_request,
)
from mcpkeep.protocol.relay.link import Link, Purpose
from mcpkeep.protocol.relay.opening import Opening
from mcpkeep.protocol.relay.output import Output, OwnAnswered
from mcpkeep.protocol.relay.takeover import Takeover

__all__ = ["OwnRequests"]


class OwnRequests:
    """Each ends with one OwnAnswered, unless it is given up first."""

    def __init__(self, out: Output, *, opening: Opening, takeover: Takeover) -> None:
        self.links: Mapping[int, Link] = {}
        """Those of the children that run, by generation."""
        self._out = out
        self._opening = opening
        self._takeover = takeover
        self._client: set[str] = set()
        """The ids of what the client has not answered."""
        self._count = 0

    def ask_child(
        self, generation: int, method: str, params: Mapping[str, object] | None = None
    ) -> str | None:
        """Send it to this child; the id of the request, or None where it is in no state to be asked."""
        link = self.links.get(generation)
        if link is None or not link.is_open or not link.is_ready or not self._opening.is_told:
            return None
        return self._takeover.ask(link, method, params)

    def ask_client(self, method: str, params: Mapping[str, object]) -> str | None:
        """Send it to the client; the id of the request, or None where the client did not offer to take it."""
        if not self._opening.client_can(method.partition("/")[0]):
            return None
        self._count += 1
        id_ = f"mcpkeep:own.{self._count}"
        self._client.add(id_)
        self._out.client.append(encode_request(id_, method, encode_object(params)))
        return id_

    def child_answered(self, id_: str, head: Head, line: bytes) -> None:
        """The child has answered."""
        self._answer(id_, head, line)

    def client_answered(self, head: Head, line: bytes) -> bool:
        """Whether this answer of the client is to a request of ours."""
        if not isinstance(head.id, str) or head.id not in self._client:
            return False
        self._client.remove(head.id)
        self._answer(head.id, head, line)
        return True

    def client_failed(self, id_: object, why: str) -> None:
        """The client's answer cannot be read."""
        if isinstance(id_, str) and id_ in self._client:
            self._client.remove(id_)
            self._out.effects.append(OwnAnswered(id_, lost=why))

    def lose(self, link: Link, why: str) -> None:
        """The child is gone, or frozen: it answers nothing any more."""
        for id_, own in link.own.items():
            if own.purpose is Purpose.ASKED:
                self._out.effects.append(OwnAnswered(id_, lost=why))
        link.own.clear()

    def give_up(self, id_: str) -> None:
        """Nobody waits any more: tell whoever was asked."""
        cancelled = encode_notification("notifications/cancelled", {"requestId": id_})
        if id_ in self._client:
            self._client.remove(id_)
            self._out.client.append(cancelled)
        for link in self.links.values():
            if link.own.pop(id_, None) is not None:
                self._out.to_child(link, cancelled)

    def _answer(self, id_: str, head: Head, line: bytes) -> None:
        if head.result is not None:
            self._out.effects.append(OwnAnswered(id_, result=decode_message(line).result))
        else:
            error = head.error if head.error is not UNSET else encode_object(JsonObject())
            self._out.effects.append(OwnAnswered(id_, error=error))
