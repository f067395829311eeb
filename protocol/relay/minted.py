"""Ids and progress tokens that a child mints towards the client, kept apart by generation.

A new child counts from the start again, so a late answer to the old one's request 3 would hit the new
one's. The client therefore sees ids of ours; non-numeric strings, since both SDKs take `"5"` and `5` for
one another.
"""

import msgspec
from msgspec import Raw

from mcpkeep.protocol.relay.jsonrpc import RequestId, decode_object, encode_object

__all__ = ["Minted"]


class _Asked(msgspec.Struct, frozen=True):
    generation: int
    id: RequestId
    token: RequestId | None


class Minted:
    """Every request of a child that the client has not answered."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}
        self._count = 0

    def request(self, generation: int, line: bytes, id_: RequestId, token: RequestId | None) -> bytes:
        """A child's request as the client gets it, under an id (and progress token) of ours."""
        self._count += 1
        minted = f"mcpkeep:{generation}.{self._count}"
        self._asked[minted] = _Asked(generation, id_, token)
        members = decode_object(line)
        members["id"] = _raw(minted)
        if token is not None:
            params = decode_object(members["params"])
            meta = decode_object(params["_meta"])
            meta["progressToken"] = _raw(minted)
            params["_meta"] = encode_object(meta)
            members["params"] = encode_object(params)
        return bytes(encode_object(members)) + b"\n"

    def answer(self, id_: RequestId, line: bytes) -> tuple[int, bytes] | None:
        """The client's answer as the child gets it, with its generation; None where nobody waits for it."""
        asked = self._asked.pop(id_, None) if isinstance(id_, str) else None
        if asked is None:
            return None
        members = decode_object(line)
        members["id"] = _raw(asked.id)
        return asked.generation, bytes(encode_object(members)) + b"\n"

    def client_progress(self, token: RequestId | None, line: bytes) -> tuple[int, bytes] | None:
        """The client's progress on a child's request as that child gets it; None where nobody waits."""
        asked = self._asked.get(token) if isinstance(token, str) else None
        if asked is None or asked.token is None:
            return None
        return asked.generation, _with_param(line, "progressToken", asked.token)

    def child_cancels(self, generation: int, id_: RequestId | None, line: bytes) -> bytes | None:
        """The child's `notifications/cancelled` as the client gets it; None where the request is over."""
        for minted, asked in self._asked.items():
            if (asked.generation, asked.id) == (generation, id_) and type(asked.id) is type(id_):
                del self._asked[minted]
                return _with_param(line, "requestId", minted)
        return None

    def forget(self, generation: int) -> list[str]:
        """Drop what a dead child had asked; the ids under which the client is still working on it."""
        over = [minted for minted, asked in self._asked.items() if asked.generation == generation]
        for minted in over:
            del self._asked[minted]
        return over


def _raw(value: RequestId) -> Raw:
    return Raw(msgspec.json.encode(value))


def _with_param(line: bytes, name: str, value: RequestId) -> bytes:
    members = decode_object(line)
    params = decode_object(members["params"])
    params[name] = _raw(value)
    members["params"] = encode_object(params)
    return bytes(encode_object(members)) + b"\n"
