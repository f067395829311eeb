"""Markdown of facts: whatever the text is, it is shown as it is and cannot become markup."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

__all__ = ["LONG_LIST", "bullets", "code", "plain", "section", "table", "time", "timed"]

LONG_LIST = 20
"""So many lines of one list are shown; the rest is counted."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")
_BAR = re.compile(r"(?<!\\)\|")
_SPACE = re.compile(r"\s+")


def plain(text: str) -> str:
    """Text on one line, without markup; bytes that are no text are shown by their numbers."""
    return _SPECIAL.sub(r"\\\1", _on_one_line(text))


def code(text: str) -> str:
    """A code span that holds the text, on one line, whatever backticks are in it."""
    text = _on_one_line(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if not text or text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def bullets(lines: Iterable[str], *, most: int = LONG_LIST) -> list[str]:
    """A list of lines that are markdown already; beyond `most`, how many more there are."""
    found = list(lines)
    shown = [f"- {line}" for line in found[:most]]
    return shown if len(found) <= most else [*shown, f"- and {len(found) - most} more"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are markdown already."""
    return [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows)]


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A section of lines that are markdown already; nothing where there are none."""
    return ["", f"## {title}", "", *lines] if lines else []


def time(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def timed(steps: Iterable[tuple[str, float]]) -> list[tuple[str, str]]:
    """Rows of a table: each step with its seconds, and their sum."""
    found = list(steps)
    return [
        *((plain(name), f"{seconds:.2f}") for name, seconds in found),
        ("together", f"{sum(seconds for _, seconds in found):.2f}"),
    ]


def _row(cells: Sequence[str]) -> str:
    # In a table a bar ends the cell even within a code span, unless it is escaped.
    escaped = (_BAR.sub(r"\|", cell) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _on_one_line(text: str) -> str:
    return _SPACE.sub(" ", text.encode("utf-8", "backslashreplace").decode()).strip()
