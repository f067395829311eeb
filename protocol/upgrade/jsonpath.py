"""The JSON path of smoke tests: `$.a.b[0]['a key']`, which names exactly one value.

Members and indices only (of RFC 9535 the singular queries), since an expectation is about one value.
"""

import json
import re
from collections.abc import Mapping
from typing import cast

from mcpkeep.protocol.errors import McpkeepError

__all__ = ["JsonPathError", "NoSuchValue", "find_value", "parse_path"]

_STEP = re.compile(
    r"""\.(?P<name>[^\s.\[\]'"*]+)        # .member
      | \[(?P<index>-?\d+)\]              # [0], or [-1] from the end
      | \[(?P<key>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]""",
    re.VERBOSE,
)


class JsonPathError(McpkeepError):
    """The path is not of this form; the text shows where it breaks."""


class NoSuchValue(McpkeepError):
    """The path leads nowhere in this answer; the text says how far it led."""


def parse_path(path: str) -> tuple[str | int, ...]:
    """The members and indices that the path goes through; none for `$` alone.

    Raises:
        JsonPathError: it is no such path.
    """
    if not path.startswith("$"):
        raise JsonPathError(f"the path {path!r} must begin with '$', such as $.results[0].file")
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise JsonPathError(
                f"the path {path!r} cannot be read from {path[at:]!r} on; use .member, ['member'] and [0]"
            )
        steps.append(_step(match, path))
        at = match.end()
    return tuple(steps)


def find_value(root: object, path: str) -> object:
    """The value that stands at `path` in a decoded JSON value.

    Raises:
        JsonPathError: it is no such path.
        NoSuchValue: nothing stands there.
    """
    found, walked = root, "$"
    for step in parse_path(path):
        if isinstance(step, str):
            if not isinstance(found, Mapping):
                raise NoSuchValue(f"{walked} is {_kind(found)}, so it has no member {step!r}")
            members = cast("Mapping[str, object]", found)
            if step not in members:
                names = ", ".join(sorted(members)) or "none"
                raise NoSuchValue(f"{walked} has no member {step!r}; it has {_short(names)}")
            found = members[step]
            walked += f".{step}" if step.isidentifier() else f"[{step!r}]"
        else:
            if not isinstance(found, list):
                raise NoSuchValue(f"{walked} is {_kind(found)}, so it has no item {step}")
            items = cast("list[object]", found)
            if not -len(items) <= step < len(items):
                raise NoSuchValue(f"{walked} has no item {step}; it has {len(items)}")
            found = items[step]
            walked += f"[{step}]"
    return found


def _step(match: re.Match[str], path: str) -> str | int:
    name, index, key = match["name"], match["index"], match["key"]
    if name is not None:
        return name
    if index is not None:
        return int(index)
    text = key[1:-1]
    if key.startswith("'"):
        text = text.replace("\\'", "'").replace('"', '\\"')
    try:
        decoded = json.loads(f'"{text}"')
    except ValueError as error:
        raise JsonPathError(f"the member {key} of the path {path!r} is no JSON string: {error}") from error
    assert isinstance(decoded, str)
    return decoded


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case _:
            return "an array"


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
