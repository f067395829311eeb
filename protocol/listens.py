"""The client's `subscriptions/listen` streams (2026-07-28): what each was promised, across children."""

from collections.abc import Iterator

import msgspec
from msgspec import Raw

from mcpkeep.protocol.call import Call
from mcpkeep.protocol.jsonrpc import (
    JsonObject,
    RequestId,
    decode_message,
    decode_object,
    encode_notification,
    encode_object,
)
from mcpkeep.protocol.mcp import LIST_KINDS, SUBSCRIPTION_ID, ListKind

__all__ = ["Listens"]

_EMPTY = Raw(b"{}")
_TOOLS_CHANGED = LIST_KINDS["tools/list"].filter


class Listens:
    """Each stream under the id of its request, with what its acknowledgement honours."""

    def __init__(self) -> None:
        self._honoured: dict[RequestId, JsonObject] = {}

    def acknowledge(self, call: Call, line: bytes) -> bytes | None:
        """A child acknowledges a stream: the frame for the client, or None where it has one already.

        Tool list changes are honoured whatever the child says, since replacing it changes them.
        """
        if call.id in self._honoured:
            return None
        members = decode_object(line)
        params = decode_object(members.get("params", _EMPTY))
        honoured = decode_object(params.get("notifications", _EMPTY))
        if _asked(call).get(_TOOLS_CHANGED) == Raw(b"true"):
            honoured[_TOOLS_CHANGED] = Raw(b"true")
        self._honoured[call.id] = honoured
        params["notifications"] = encode_object(honoured)
        members["params"] = encode_object(params)
        return bytes(encode_object(members)) + b"\n"

    def end(self, id_: RequestId) -> None:
        self._honoured.pop(id_, None)

    def changed(self, kind: ListKind) -> Iterator[bytes]:
        """The list_changed frames for every stream that was promised them."""
        for id_, honoured in self._honoured.items():
            if honoured.get(kind.filter) == Raw(b"true"):
                yield encode_notification(kind.changed, {"_meta": {SUBSCRIPTION_ID: id_}})

    def updated(self, id_: RequestId) -> Iterator[bytes]:
        """After another child took the stream over: each resource on it may have changed meanwhile."""
        raw = self._honoured.get(id_, {}).get("resourceSubscriptions", Raw(b"[]"))
        try:
            uris = msgspec.json.decode(raw, type=list[str])
        except msgspec.DecodeError:
            return
        for uri in uris:
            meta = {SUBSCRIPTION_ID: id_}
            yield encode_notification("notifications/resources/updated", {"uri": uri, "_meta": meta})


def _asked(call: Call) -> JsonObject:
    params = decode_object(decode_message(call.frame).params)
    return decode_object(params.get("notifications", _EMPTY))
