"""Members of foreign JSON: read leniently, and told where they are plainly something else."""

import re
from collections.abc import Sequence
from typing import cast

import msgspec

__all__ = ["Members", "number_of", "numbers_for"]

_NUMBER = re.compile(r"(?:phase|task)?\s*(\d{1,4})", re.IGNORECASE | re.ASCII)


class Members:
    """An object of `metadata.json`; a member that is plainly wrong is a warning, and counts as absent."""

    def __init__(self, value: object, where: str, warnings: list[str]) -> None:
        """`where` names the object in warnings; it is empty for the whole file."""
        self.where = f"metadata.json: {where}" if where else "metadata.json"
        self._warnings = warnings
        self.values: dict[str, object] = {}
        self.is_object = isinstance(value, dict)
        if isinstance(value, dict):
            self.values = cast("dict[str, object]", value)
        else:
            self.warn(f"must be an object, not {value!r:.100}")

    def warn(self, what: str) -> None:
        self._warnings.append(f"{self.where}: {what}")

    def text(self, names: str | tuple[str, ...], default: str = "") -> str:
        for name in (names,) if isinstance(names, str) else names:
            value = self.values.get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                if text := str(value).strip():
                    return text
            elif value is not None:
                self.warn(f"{name!r} must be text, not {value!r:.100}")
        return default

    def texts(self, *names: str) -> tuple[str, ...]:
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str):
                return (value,)
            if isinstance(value, list):
                entries = cast("list[object]", value)
                return tuple(entry if isinstance(entry, str) else _shown(entry) for entry in entries)
            if value is not None:
                self.warn(f"{name!r} must be a list of texts, not {value!r:.100}")
        return ()

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        said = str(value).lower()
        if value is not None and said not in ("true", "false"):
            self.warn(f"{name!r} must be true or false, not {value!r:.100}")
        return said == "true"

    def inner(self, name: str) -> "Members":
        return Members(self.values.get(name) or {}, repr(name), self._warnings)


def number_of(value: object) -> int | None:
    """The number from 0 to 9999 that is meant, by 1, 1.0, "1" and "Phase 1"; None where none is."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value.strip())):
        value = int(match[1])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000 else None


def numbers_for(given: Sequence[object], first: int) -> list[tuple[int, bool]]:
    """A number of its own for each entry of a list, and whether it is the one it was given.

    Without one, None, an entry counts by its place from `first`. What is no number, or one that stands twice,
    gets the next free one from there.
    """
    numbers: list[int | None] = []
    taken: set[int] = set()
    for place, value in enumerate(given, first):
        number = place if value is None else number_of(value)
        numbers.append(number if number not in taken else None)
        taken |= {number} if number is not None else set()
    free = first
    found: list[tuple[int, bool]] = []
    for place, number in enumerate(numbers, first):
        if number is None:
            free = max(free, place)
            while free in taken:
                free += 1
            taken.add(free)
        found.append((free, False) if number is None else (number, True))
    return found


def _shown(value: object) -> str:
    """An entry that is not a text: what names it, or else its JSON."""
    members = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    named = members.get("name", members.get("description"))
    return named if isinstance(named, str) else msgspec.json.encode(value).decode()
