"""Three-way merge of JSON texts by key, in the user's formatting.

Members are cut out of the texts and put together again, never encoded anew: numbers, escapes and whitespace
stay as somebody wrote them. Objects are merged key by key; everything else is one value.
"""

import json
import re
from typing import NamedTuple

__all__ = ["DEPTH", "NotJson", "merge_json"]

DEPTH = 100
"""Values nested deeper are not merged; configuration has a handful of levels."""

_BOM = "\ufeff"
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
# The first three are no JSON, but Python writes and reads them.
_ATOM = re.compile(r"NaN|-?Infinity|true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LINE_START = re.compile(r"\n([ \t]*)")
_AFTER_COMMA = re.compile(r",[ \t\r]*\n\s*")
_BREAK = re.compile(r"[ \t\r]*\n\s*")


class NotJson(ValueError):
    """A text is not JSON."""


class _Doubtful(Exception):
    """It is JSON, but not what by-key merging is safe for."""


class _Atom(NamedTuple):
    """A number or a literal by its spelling, so that no precision is lost and 1 is not true."""

    text: str


_Plain = str | _Atom | list["_Plain"] | dict[str, "_Plain"]


class _Value(NamedTuple):
    text: str
    plain: _Plain
    members: "dict[str, _Member] | None" = None
    """Of an object."""


class _Member(NamedTuple):
    lead: str
    """The whitespace before the key."""
    head: str
    """The key, the colon, and what is between and after."""
    value: _Value
    tail: str
    """The whitespace after the value."""


class _Style(NamedTuple):
    indent: str
    """Of the line that the value begins on."""
    unit: str | None
    """What a level is indented by; None where all stands on one line."""


def merge_json(base: str, ours: str, theirs: str) -> str | None:
    """Our text with what they changed since base, or None where both changed the same, or it is in doubt.

    In doubt are keys that occur twice and values nested deeper than DEPTH. New keys of theirs come after
    the key that they follow there. The result is read again before it is answered.

    Raises:
        NotJson: one of the three is not JSON.
    """
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    try:
        read = [_read(text) for text in (base, ours, theirs)]
        old, mine, new = read
        merged = _merge(old, mine, new, _Style("", _unit(mine.text)), _unit(new.text))
        if merged is None or _read(merged.text).plain != merged.plain:
            return None
    except _Doubtful:
        return None
    # Before and after the value there is only whitespace, and perhaps the mark.
    begin = ours.index(mine.text)
    return ours[:begin] + merged.text + ours[begin + len(mine.text) :]


def _merge(
    base: _Value | None, ours: _Value, theirs: _Value, style: _Style, unit: str | None
) -> _Value | None:
    """`base` is None for what both added; `unit` is what they indent by."""
    if ours.members is not None and theirs.members is not None:
        if base is None:
            return _merge_members({}, ours.members, theirs.members, style, unit)
        if base.members is not None:
            return _merge_members(base.members, ours.members, theirs.members, style, unit)
    if ours.plain == theirs.plain or (base is not None and theirs.plain == base.plain):
        return ours
    return theirs if base is not None and ours.plain == base.plain else None


def _merge_members(
    base: dict[str, _Member],
    ours: dict[str, _Member],
    theirs: dict[str, _Member],
    style: _Style,
    unit: str | None,
) -> _Value | None:
    inner = _inner(next(iter(ours.values()), None), style)

    def brought(new: _Member, into: _Member) -> _Member:
        return into._replace(value=new.value._replace(text=_restyled(new.value.text, new.lead, unit, inner)))

    stay: dict[str, _Member] = {}
    for key, mine in ours.items():
        old, new = base.get(key), theirs.get(key)
        if new is not None:
            value = _merge(old.value if old else None, mine.value, new.value, inner, unit)
            if value is None:
                return None
            stay[key] = brought(new, mine) if value is new.value else mine._replace(value=value)
        elif old is None:
            stay[key] = mine
        elif old.value.plain != mine.value.plain:
            return None
    added: dict[str | None, dict[str, _Member]] = {}
    before: str | None = None
    for key, new in theirs.items():
        if key in stay:
            before = key
        elif key not in base:
            added.setdefault(before, {})[key] = brought(new, new)
        elif base[key].value.plain != new.value.plain:
            return None
    members = dict(added.get(None, {}))
    for key, mine in stay.items():
        members |= {key: mine, **added.get(key, {})}
    plain: _Plain = {key: member.value.plain for key, member in members.items()}
    return _Value(_written(members, ours, style), plain, members)


def _written(members: dict[str, _Member], ours: dict[str, _Member], style: _Style) -> str:
    """An object of these members, laid out as ours is."""
    if not members:
        return "{}"
    own = list(ours.values())
    if own:
        lead, closing = own[0].lead, own[-1].tail
        spaced = " " if own[0].head.endswith(" ") else ""
        following = own[1].lead if len(own) > 1 else lead if "\n" in lead else spaced
    elif style.unit is None:
        lead, following, closing = "", " ", ""
    else:
        lead = following = f"\n{style.indent}{style.unit}"
        closing = f"\n{style.indent}"
    first, last = (own[0].head, own[-1].head) if own else ("", "")
    text: list[str] = []
    for key, member in members.items():
        stood = key in ours
        text.append(member.lead if text and stood and member.head != first else following if text else lead)
        text += (member.head, member.value.text)
        text.append(f"{member.tail if stood and member.head != last else ''},")
    text[-1] = closing
    return "{" + "".join(text) + "}"


def _inner(first: _Member | None, style: _Style) -> _Style:
    if first is not None and "\n" in first.lead:
        return style._replace(indent=first.lead.rpartition("\n")[2])
    return style._replace(indent=style.indent + (style.unit or ""))


def _restyled(text: str, lead: str, unit: str | None, style: _Style) -> str:
    """A value of theirs that stood after `lead`, indented as ours are. No string has a line break."""
    if "\n" not in text:
        return text
    if style.unit is None:
        return _BREAK.sub("", _AFTER_COMMA.sub(", ", text))
    outer, step, own = lead.rpartition("\n")[2] if "\n" in lead else "", unit or "", style.unit

    def indented(found: re.Match[str]) -> str:
        rest = found[1].removeprefix(outer)
        levels = len(rest) // len(step) if step and rest == step * (len(rest) // len(step)) else None
        return f"\n{style.indent}{rest if levels is None else own * levels}"

    return _LINE_START.sub(indented, text)


def _unit(text: str) -> str | None:
    found = _LINE_START.search(text)
    return found[1] if found else None


def _read(text: str) -> _Value:
    text = text.removeprefix(_BOM)
    begin = _end(_SPACE.match(text))
    value, end = _value(text, begin, 0)
    if _SPACE.fullmatch(text, end) is None:
        raise NotJson(f"something follows the value at character {end}")
    return value


def _end(found: re.Match[str] | None) -> int:
    assert found is not None
    return found.end()


def _value(text: str, at: int, depth: int) -> tuple[_Value, int]:
    if depth > DEPTH:
        raise _Doubtful
    opening = text[at : at + 1]
    if opening == "{":
        return _object(text, at, depth)
    if opening == "[":
        return _array(text, at, depth)
    found = (_STRING if opening == '"' else _ATOM).match(text, at)
    if found is None:
        raise NotJson(f"no value at character {at}")
    plain: _Plain = str(json.loads(found[0])) if opening == '"' else _Atom(found[0])
    return _Value(found[0], plain), found.end()


def _object(text: str, begin: int, depth: int) -> tuple[_Value, int]:
    members: dict[str, _Member] = {}
    at = begin + 1
    space = _end(_SPACE.match(text, at))
    if text[space : space + 1] == "}":
        return _Value(text[begin : space + 1], {}, members), space + 1
    while True:
        key = _STRING.match(text, space)
        if key is None:
            raise NotJson(f"no key at character {space}")
        colon = _end(_SPACE.match(text, key.end()))
        if text[colon : colon + 1] != ":":
            raise NotJson(f"no colon at character {colon}")
        start = _end(_SPACE.match(text, colon + 1))
        value, end = _value(text, start, depth + 1)
        tail = _end(_SPACE.match(text, end))
        name = str(json.loads(key[0]))
        if name in members:
            raise _Doubtful
        members[name] = _Member(text[at:space], text[space:start], value, text[end:tail])
        if text[tail : tail + 1] == "}":
            plain: _Plain = {name: member.value.plain for name, member in members.items()}
            return _Value(text[begin : tail + 1], plain, members), tail + 1
        if text[tail : tail + 1] != ",":
            raise NotJson(f"no comma at character {tail}")
        at = tail + 1
        space = _end(_SPACE.match(text, at))


def _array(text: str, begin: int, depth: int) -> tuple[_Value, int]:
    items: list[_Plain] = []
    at = _end(_SPACE.match(text, begin + 1))
    if text[at : at + 1] == "]":
        return _Value(text[begin : at + 1], items), at + 1
    while True:
        value, end = _value(text, at, depth + 1)
        items.append(value.plain)
        tail = _end(_SPACE.match(text, end))
        if text[tail : tail + 1] == "]":
            return _Value(text[begin : tail + 1], items), tail + 1
        if text[tail : tail + 1] != ",":
            raise NotJson(f"no comma at character {tail}")
        at = _end(_SPACE.match(text, tail + 1))
