"""The lists a server offers: ours merged in, what the client was last given, and what a new child changed."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw, field

from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.jsonrpc import JsonObject, decode_object, decode_text, encode_object
from mcpkeep.protocol.relay.mcp import LIST_KINDS, Era, ListKind
from mcpkeep.protocol.relay.opening import UNCACHED
from mcpkeep.protocol.relay.tools import OwnTool, encode_tool

__all__ = ["Listing", "ListingChange", "ToolAnnotations"]

_NO_ITEMS = Raw(b"[]")
_NULL = Raw(b"null")


class ToolAnnotations(msgspec.Struct, frozen=True):
    """What a tool says of its effects; hints, used only to decide whether a lost call may go out again."""

    read_only: bool | None = field(default=None, name="readOnlyHint")
    idempotent: bool | None = field(default=None, name="idempotentHint")


class _Tool(msgspec.Struct, frozen=True):
    name: str
    annotations: ToolAnnotations | None = None


class ListingChange(msgspec.Struct, frozen=True):
    """How a new child's list differs from what the client was last given."""

    kind: ListKind
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class _Given(msgspec.Struct):
    """One list as the client knows it."""

    items: dict[bytes, None]
    """Each once, however often the client asks for the same page."""
    complete: bool


_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_tool = msgspec.json.Decoder(_Tool).decode


class Listing:
    """All lists of the server, as last given to the client and as last seen of the child."""

    def __init__(self, own: Sequence[OwnTool], *, overlay: bool) -> None:
        self.gone: dict[str | None, None] = {}
        """Tools that the client was given and that a replacement took away, until it was told in an error."""
        self.own: dict[str | None, OwnTool] = {tool.name: tool for tool in own}
        """Our tools that answer under their names: all but those for which the child's stand."""
        self._all_own = tuple(own)
        self._overlay = overlay
        self._given: dict[str, _Given] = {}
        self._fresh: dict[str, list[Raw]] = {}
        self.tools: dict[str | None, ToolAnnotations] = {}
        """The child's tools, as last listed."""
        self._hidden: dict[str, None] = {}

    def hidden_names(self) -> tuple[str, ...]:
        """The child's tools that ours stand for."""
        return tuple(self._hidden)

    def is_harmless(self, name: str | None) -> bool:
        """Whether the tool says of itself that calling it twice does no harm."""
        hints = self.tools.get(name)
        return hints is not None and bool(hints.read_only or hints.idempotent)

    def given_methods(self) -> tuple[str, ...]:
        """The lists that the client has asked for."""
        return tuple(self._given)

    def page(self, method: str, result: Raw, *, first: bool, era: Era) -> Raw:
        """One page of a list as the client gets it."""
        kind = LIST_KINDS[method]
        members = decode_object(result)
        items = self._child_items(kind, members, first=first)
        given = self._given.setdefault(method, _Given({}, False))
        if first:
            given.items.clear()
        given.items |= dict.fromkeys(map(_canonical, items))
        given.complete = members.get("nextCursor", _NULL) == _NULL
        if kind.member == "tools":
            if first:
                items += self._own_items()
        elif era is not Era.MODERN:
            return result
        members[kind.member] = Raw(msgspec.json.encode(items))
        if era is Era.MODERN:
            members |= UNCACHED
        return encode_object(members)

    def from_memory(self, era: Era) -> Raw:
        """`tools/list` while no child can answer it: what was last given, and our own."""
        known = self._given.setdefault("tools/list", _Given({}, False))
        items = [Raw(item) for item in known.items]
        members: JsonObject = {"tools": Raw(msgspec.json.encode(items + self._own_items()))}
        if era is Era.MODERN:
            members |= {**UNCACHED, "resultType": Raw(b'"complete"')}
        return encode_object(members)

    def without_child(self, era: Era) -> Raw:
        """`tools/list` while a child serves that has no tools at all."""
        result = b'{"resultType":"complete"}' if era is Era.MODERN else b"{}"
        return self.page("tools/list", Raw(result), first=True, era=era)

    def fresh_page(self, method: str, result: Raw, *, first: bool) -> str | None:
        """Take in one page of a list that we asked for ourselves; the cursor of the next one, if any."""
        members = decode_object(result)
        if first:
            self._fresh[method] = []
        items = self._child_items(LIST_KINDS[method], members, first=first)
        self._fresh.setdefault(method, []).extend(items)
        return decode_text(members.get("nextCursor"))

    def unknown(self, method: str) -> ListingChange:
        """What to tell of a list that could not be fetched for comparison."""
        self._fresh.pop(method, None)
        return ListingChange(LIST_KINDS[method])

    def compare(self, method: str) -> ListingChange | None:
        """Compare the list just fetched with what the client was last given; None where nothing differs."""
        kind, fresh, given = LIST_KINDS[method], self._fresh.pop(method, []), self._given.get(method)
        if given is None:
            return None
        before, after = _by_name(given.items), _by_name(map(_canonical, fresh))
        if kind.member == "tools":
            for name in after:
                self.gone.pop(name, None)
        if given.complete and before == after:
            return None
        change = ListingChange(
            kind=kind,
            added=tuple(name for name in after if name not in before),
            removed=tuple(name for name in before if name not in after) if given.complete else (),
            changed=tuple(name for name, item in after.items() if before.get(name, item) != item),
        )
        if kind.member == "tools":
            self.gone |= dict.fromkeys(change.removed)
        return change

    def tell_gone(self, call: Call, line: bytes) -> bytes:
        """Add to the answer of a call whose tool went away that it did, unless the answer is a success."""
        text = f"The MCP server was replaced and no longer offers {call.subject!r}; ask for tools/list again."
        members = decode_object(line)
        if call.method != "tools/call":
            return line
        if "error" in members:
            error = decode_object(members["error"])
            message = decode_text(error.get("message")) or ""
            members["error"] = encode_object({**error, "message": f"{message} {text}".lstrip()})
        else:
            result = decode_object(members["result"])
            if result.get("isError") != Raw(b"true"):
                return line
            content = _items_of(result, "content")
            added = [*content, {"type": "text", "text": text}]
            members["result"] = encode_object({**result, "content": added})
        self.gone.pop(call.subject or "", None)
        return bytes(encode_object(members)) + b"\n"

    def _child_items(self, kind: ListKind, members: JsonObject, *, first: bool) -> list[Raw]:
        items = _items_of(members, kind.member)
        if kind.member != "tools":
            return items
        if first:
            self.tools.clear()
            self._hidden.clear()
            self.own = {tool.name: tool for tool in self._all_own}
        shown: list[Raw] = []
        hidden = {name for tool in self._all_own for name in (tool.name, *tool.hides)}
        for item in items:
            try:
                tool = _decode_tool(item)
            except msgspec.DecodeError:
                shown.append(item)
                continue
            if tool.name in hidden and self._overlay:
                self._hidden[tool.name] = None
                continue
            self.tools[tool.name] = tool.annotations or ToolAnnotations()
            shown.append(item)
        if not self._overlay:
            self.own = {name: tool for name, tool in self.own.items() if name not in self.tools}
        return shown

    def _own_items(self) -> list[Raw]:
        return [encode_tool(tool) for tool in self.own.values()]


def _items_of(members: JsonObject, name: str) -> list[Raw]:
    """The array under `name`; empty for what is absent or no array."""
    try:
        return _decode_items(members.get(name, _NO_ITEMS))
    except msgspec.DecodeError:
        return []


def _canonical(item: Raw) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(item), order="sorted")
    except msgspec.DecodeError:  # JSON holds numbers that no float does, such as 1e400
        return bytes(item)


def _by_name(items: Iterable[bytes]) -> dict[str, bytes]:
    """Each item under what identifies it: its URI where it has one, else its name."""
    named: dict[str, bytes] = {}
    for item in items:
        members = decode_object(item)
        keys = map(decode_text, map(members.get, ("uri", "uriTemplate", "name")))
        named[next(filter(None, keys), item.decode())] = item
    return named
