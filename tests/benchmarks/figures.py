"""What the benchmarks compute and print: percentiles, slopes, and tables with ratios."""

import importlib.util
import statistics
from collections.abc import Sequence

import msgspec

__all__ = ["Table", "growth", "percentile", "show", "slope"]


class Table(msgspec.Struct, frozen=True):
    """One table of results; all cells are text already."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share (0 to 1) of the values lies; one of them, none between."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def slope(series: Sequence[float]) -> float:
    """By how much the series rises from one entry to the next, by least squares."""
    return statistics.linear_regression(range(len(series)), series).slope


def growth(series: Sequence[float]) -> float:
    """The median of the last quarter minus the median of the second quarter.

    The first quarter is left out: caches fill there. Medians, because a single reading may be anything.

    Raises:
        ValueError: there are fewer than eight entries, too few to tell.
    """
    if len(series) < 8:
        raise ValueError(f"{len(series)} readings are too few to see growth in, take 8 or more")
    quarter = len(series) // 4
    return statistics.median(series[-quarter:]) - statistics.median(series[quarter : 2 * quarter])


def show(table: Table) -> None:
    """Print the table, with rich where it is installed."""
    if importlib.util.find_spec("rich") is None:
        _show_plain(table)
    else:
        _show_rich(table)


def _show_rich(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    rich = RichTable(title=table.title, title_justify="left", title_style="bold")
    for index, column in enumerate(table.columns):
        rich.add_column(column, justify="left" if index == 0 else "right")
    for row in table.rows:
        rich.add_row(*(Text(cell, _style(cell)) for cell in row))
    console.print(rich)
    for note in table.notes:
        console.print(note, style="dim", markup=False)
    console.print()


def _style(cell: str) -> str:
    return {"met": "green", "MISSED": "bold red", "skipped": "yellow"}.get(cell, "")


def _show_plain(table: Table) -> None:
    widths = [max(len(row[i]) for row in (table.columns, *table.rows)) for i in range(len(table.columns))]
    print(table.title)
    for row in (table.columns, *table.rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for note in table.notes:
        print(note)
    print()
