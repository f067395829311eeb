"""The kinds of value a setting can have: what each expects, how it is checked, and how text becomes one.

A value comes from TOML with a type of its own, or as text from the environment or a flag. Text is first
turned into what TOML would have given, then both are checked alike. Only modules that load in no time are
imported here: the configuration is read before the child is spawned.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

__all__ = [
    "AMOUNT",
    "AUTO",
    "COMMAND",
    "ENVIRONMENT",
    "FILE",
    "NAMES",
    "NUMBER",
    "PATHS",
    "POSITIVE_SECONDS",
    "SECONDS",
    "SIZE",
    "SMOKE",
    "SWITCH",
    "TABLES",
    "Kind",
    "choice",
    "describe_value",
    "show_value",
]

_YEAR = 366 * 24 * 3600
_UNITS = {"b": 1} | {
    prefix + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for prefix, suffix, base in ((letter, "b", 1000), (letter, "ib", 1024))
}
_LEAST_AMOUNT = 4096
_MOST_BYTES = 2**50
_TYPES: dict[type, str] = {str: "string", int: "integer", float: "float", list: "array", dict: "table"}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class Kind(NamedTuple):
    """One kind of value. Both functions raise ValueError for what is not of this kind."""

    metavar: str
    expected: str
    """What an error message says was expected."""
    check: Callable[[object], object]
    """From a TOML value to the value in the settings."""
    from_text: Callable[[str], object]
    """From text to a TOML value."""


def describe_value(value: object) -> str:
    """Name a TOML value and its type, such as `the string 'fast'`, cut where it is long."""
    if isinstance(value, bool):
        return f"the boolean {'true' if value else 'false'}"
    name = _TYPES.get(type(value))
    if name is None:
        return f"the date or time {value!s}"
    try:
        text = repr(value)
    except ValueError:  # repr refuses integers of more than 4,300 digits
        return f"the {name} beyond all measure"
    return f"the {name} {text if len(text) <= 60 else text[:57] + '...'}"


def show_value(kind: Kind, value: object) -> str:
    """Write a setting's value as it would stand in the file, for the help and the status."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value and kind in (SIZE, AMOUNT):
        for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value % bytes_ == 0:
                return f'"{value // bytes_} {unit}"'
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in cast("tuple[str, ...]", value)) + "]"
    if isinstance(value, dict):
        table = cast("dict[str, str]", value)
        return "{" + ", ".join(f'{key} = "{text}"' for key, text in table.items()) + "}"
    return f'"{value}"'


def choice(*options: str) -> Kind:
    """One of a few words."""

    def check(value: object) -> str:
        if value not in options:
            raise ValueError
        return str(value)

    return Kind("|".join(options), "one of " + ", ".join(map(repr, options)), check, str)


def _seconds(least: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not least <= value <= _YEAR:  # false for nan, too
            raise ValueError
        return float(value)

    return check


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
        raise ValueError
    return value


def _bytes(least: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str):
            digits = value.rstrip("BKMGTIbkmgti ")
            scale = _UNITS.get(value[len(digits) :].strip().lower() or "b")
            if scale is None or not digits.replace(".", "", 1).isdecimal():
                raise ValueError
            value = round(float(digits) * scale) if len(digits) < 20 else -1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_BYTES:
            raise ValueError
        return value

    return check


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _switch_from_text(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError
    return word in _TRUE


def _usable(value: object) -> str:
    """A string that the kernel takes in a path, an argument or the environment."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError
    return tuple(_usable(item) for item in cast("list[object]", value))


def _words(text: str) -> list[str]:
    import shlex

    return shlex.split(text)


def _command(value: object) -> tuple[str, ...]:
    words = _strings(_words(value) if isinstance(value, str) else value)
    if words and not words[0]:
        raise ValueError
    return words


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError
    items = cast("dict[object, object]", value).items()
    table = {_usable(name): _usable(text) for name, text in items}
    if any(not name or "=" in name for name in table):
        raise ValueError
    return table


def _environment_from_text(text: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in _words(text)]
    if any(not sign for _, sign, _ in pairs):
        raise ValueError
    return {name: value for name, _, value in pairs}


def _paths(value: object) -> tuple[str, ...]:
    paths = _strings(value)
    if not all(paths):
        raise ValueError
    return paths


def _names_from_text(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _tables(value: object) -> dict[str, tuple[str, ...]]:
    """A table of commands."""
    if not isinstance(value, dict):
        raise ValueError
    return {_usable(name): _command(words) for name, words in cast("dict[object, object]", value).items()}


def _smoke(value: object) -> tuple[dict[str, object], ...]:
    """Tables with a tool, and at will its arguments, what is expected and a name."""
    if not isinstance(value, list):
        raise ValueError
    return tuple(_smoke_test(item) for item in cast("list[object]", value))


def _smoke_test(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError
    table = cast("dict[str, object]", value)
    if not table.keys() <= {"name", "tool", "arguments", "expect"} or not table.get("tool"):
        raise ValueError
    expect = table.get("expect", {})
    arguments = table.get("arguments", {})
    if not isinstance(expect, dict) or not isinstance(arguments, dict):
        raise ValueError
    expected = cast("dict[str, object]", expect)
    if expected and expected.keys() != {"path", "value"}:
        raise ValueError
    for text in (table["tool"], table.get("name", ""), expected.get("path", "")):
        _usable(text)
    return table


def _refuse_text(text: str) -> object:
    raise ValueError(text)


def _paths_from_text(text: str) -> list[str]:
    return [path for path in text.split(":") if path]


def _file(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    if not _usable(value):
        raise ValueError
    return str(value)


def _auto(value: object) -> bool | str:
    return "auto" if value == "auto" else _switch(value)


def _auto_from_text(text: str) -> bool | str:
    return "auto" if text == "auto" else _switch_from_text(text)


def _file_from_text(text: str) -> bool | str:
    try:
        return _switch_from_text(text)
    except ValueError:
        return text


SECONDS = Kind("SECONDS", "a number of seconds from 0 to a year", _seconds(0), float)
POSITIVE_SECONDS = Kind("SECONDS", "a number of seconds above 0, up to a year", _seconds(0.001), float)
NUMBER = Kind("N", "a whole number from 0 to 1000", _number, int)
SIZE = Kind("SIZE", 'a number of bytes, or text such as "600 MB" or "1.5 GiB"', _bytes(0), str)
AMOUNT = Kind("SIZE", 'at least 4096 bytes, or text such as "10 MiB"', _bytes(_LEAST_AMOUNT), str)
AUTO = Kind("WHEN", 'true, false or "auto"', _auto, _auto_from_text)
SWITCH = Kind("BOOL", "true or false", _switch, _switch_from_text)
COMMAND = Kind("COMMAND", 'an array of strings, or one string such as "npx -y some-server"', _command, _words)
ENVIRONMENT = Kind("TABLE", "a table of strings", _environment, _environment_from_text)
PATHS = Kind("PATH", "an array of paths", _paths, _paths_from_text)
FILE = Kind("PATH", "true, false or a path", _file, _file_from_text)
NAMES = Kind("NAME", "an array of strings", _strings, _names_from_text)
TABLES = Kind("TABLE", "a table of commands, in the file only", _tables, _refuse_text)
SMOKE = Kind(
    "TABLES",
    "tables [[upgrade.smoke]] in the file, with tool, and at will name, arguments, expect = { path, value }",
    _smoke,
    _refuse_text,
)
