"""The client's `subscriptions/listen` streams (2026-07-28): what each was promised, across children.

A promise lives as long as its request stands unanswered in the table of calls.
"""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Raw

from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.jsonrpc import (
    JsonObject,
    decode_message,
    decode_object,
    encode_notification,
    encode_object,
)
from mcpkeep.protocol.relay.mcp import LIST_KINDS, SUBSCRIPTION_ID, ListKind

__all__ = ["acknowledge", "listens_changed", "listens_updated"]

_EMPTY = Raw(b"{}")
_TOOLS_CHANGED = LIST_KINDS["tools/list"].filter


def acknowledge(call: Call, line: bytes) -> bytes | None:
    """A child acknowledges a stream: the frame for the client, or None where it has one already.

    Tool list changes are honoured whatever the child says, since replacing it changes them.
    """
    if call.honoured is not None:
        return None
    members = decode_object(line)
    params = decode_object(members.get("params", _EMPTY))
    honoured = decode_object(params.get("notifications", _EMPTY))
    if _asked(call).get(_TOOLS_CHANGED) == Raw(b"true"):
        honoured[_TOOLS_CHANGED] = Raw(b"true")
    call.honoured = honoured
    params["notifications"] = encode_object(honoured)
    members["params"] = encode_object(params)
    return bytes(encode_object(members)) + b"\n"


def listens_changed(calls: Iterable[Call], kind: ListKind) -> Iterator[bytes]:
    """The list_changed frames for every stream that was promised them."""
    for call in calls:
        if call.honoured is not None and call.honoured.get(kind.filter) == Raw(b"true"):
            yield encode_notification(kind.changed, {"_meta": {SUBSCRIPTION_ID: call.id}})


def listens_updated(call: Call) -> Iterator[bytes]:
    """After another child took the stream over: each resource on it may have changed meanwhile."""
    raw = (call.honoured or {}).get("resourceSubscriptions", Raw(b"[]"))
    try:
        uris = msgspec.json.decode(raw, type=list[str])
    except msgspec.DecodeError:
        return
    for uri in uris:
        meta = {SUBSCRIPTION_ID: call.id}
        yield encode_notification("notifications/resources/updated", {"uri": uri, "_meta": meta})


def _asked(call: Call) -> JsonObject:
    params = decode_object(decode_message(call.frame).params)
    return decode_object(params.get("notifications", _EMPTY))
