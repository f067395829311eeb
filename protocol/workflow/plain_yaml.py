"""YAML from a file nobody has to trust, read as plain JSON-like values.

Built from the parser's events with a stack of our own: no tags, no aliases and no recursion, so that neither
a billion laughs nor ten thousand brackets cost more than reading the text.
"""

import importlib
import math
import re
from collections.abc import Iterable
from typing import Protocol, cast

from mcpkeep.protocol.errors import McpkeepError

__all__ = ["MAX_BYTES", "PlainYamlError", "read_yaml"]

MAX_BYTES = 64 * 1024
"""Size of a file; the largest gate seen in use has 2 KB."""
MAX_DEPTH = 16
MAX_VALUES = 5_000
MAX_NUMBER = 40
"""Characters of a number; longer ones are refused, not rounded."""

_WORDS: dict[str, object] = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("", "~", "null"), None),
}
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")


class PlainYamlError(McpkeepError):
    """The text is not YAML, or uses more of YAML than is read here; the text names the line."""


class _Event(Protocol):
    """What is read of the parser's events; which are set depends on the kind of event."""

    start_mark: "_Mark"
    anchor: str | None
    tag: str | None
    value: str
    style: str | None


class _Mark(Protocol):
    line: int


class _Open:
    """A mapping or list whose end has not come yet."""

    def __init__(self, value: "dict[str, object] | list[object]") -> None:
        self.value = value
        self.key: str | None = None


def read_yaml(data: bytes) -> object:
    """Give the one document as None, bool, int, float, str, list or dict; keys are always text, as written.

    Raises PlainYamlError for whatever is not plain: too large, too deep, aliases, tags, duplicate keys,
    several documents, numbers of more than 40 characters.
    """
    if len(data) > MAX_BYTES:
        raise PlainYamlError(f"has {len(data)} bytes, more than the {MAX_BYTES} that are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlainYamlError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    yaml = importlib.import_module("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    failure = cast("type[Exception]", yaml.YAMLError)
    try:
        return _build(cast("Iterable[_Event]", yaml.parse(text, Loader=loader)))
    except failure as error:
        raise PlainYamlError(f"is not YAML: {' '.join(str(error).split())[:300]}") from None


def _build(events: Iterable[_Event]) -> object:
    root: list[object] = []
    stack = [_Open(root)]
    count = documents = 0
    for event in events:
        line = event.start_mark.line + 1
        kind = type(event).__name__
        match kind:
            case "StreamStartEvent" | "StreamEndEvent" | "DocumentEndEvent":
                continue
            case "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise PlainYamlError(f"line {line}: only one document is read; take the '---' out")
                continue
            case "AliasEvent":
                raise PlainYamlError(f"line {line}: alias *{event.anchor} is not read; write the value out")
            case "MappingEndEvent" | "SequenceEndEvent":
                stack.pop()
                continue
            case _:
                pass
        count += 1
        if count > MAX_VALUES or len(stack) > MAX_DEPTH:
            raise PlainYamlError(
                f"line {line}: over {MAX_VALUES} values or {MAX_DEPTH} levels; make it smaller"
            )
        if event.tag is not None and event.tag != "!":
            raise PlainYamlError(f"line {line}: tag {event.tag!r} is not read; write the plain value")
        match kind:
            case "ScalarEvent":
                _put(stack[-1], event, line)
            case "MappingStartEvent":
                _open(stack, {}, line)
            case _:
                _open(stack, [], line)
    return root[0] if root else None


def _open(stack: list[_Open], value: "dict[str, object] | list[object]", line: int) -> None:
    _add(stack[-1], value, line)
    stack.append(_Open(value))


def _put(container: _Open, event: _Event, line: int) -> None:
    if isinstance(container.value, dict) and container.key is None:
        if event.value in container.value:
            raise PlainYamlError(f"line {line}: key {event.value!r} stands twice")
        container.key = event.value
        return
    plain = event.style is None or event.style == ""
    _add(container, _resolved(event.value, line) if plain else event.value, line)


def _add(container: _Open, value: object, line: int) -> None:
    if isinstance(container.value, list):
        container.value.append(value)
    elif container.key is None:
        raise PlainYamlError(f"line {line}: a key must be text")
    else:
        container.value[container.key] = value
        container.key = None


def _resolved(text: str, line: int) -> object:
    if len(text) <= 5 and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if not (integer := _INTEGER.match(text)) and not _FLOAT.match(text):
        return text
    if len(text) > MAX_NUMBER:
        raise PlainYamlError(f"line {line}: a number has at most {MAX_NUMBER} characters; or quote it")
    if integer:
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise PlainYamlError(f"line {line}: number {text!r} is too large")
    return number
