"""Answers of `pos_workflow` for people: tables for lists, markdown for phases and tasks, the rest by name."""

from collections.abc import Mapping, Sequence
from typing import cast

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = ["show"]

_HIDDEN = ("status", "action")
_WIDTH = 110
"""Columns where the output is no terminal."""

_TIMES = ("created_at", "last_updated", "started_at", "completed_at", "timestamp", "last_error")
_WHOLE = ("session_id", "status", "workflow_type", *_TIMES)
"""Never broken: what is cut cannot be copied."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "workflows": ("workflow_type", "category", "version", "phases", "estimated_duration", "description"),
    "sessions": ("session_id", "status", "workflow_type", "target_file", "current_phase", "last_updated"),
    "existing_sessions": ("session_id", "status", "current_phase", "last_updated"),
    "phase_history": ("phase", "attempt", "status", "started_at", "duration_seconds"),
    "errors": ("phase", "timestamp", "error_type", "message"),
    "previous_errors": ("phase", "timestamp", "message"),
    "execution_steps": ("step", "description", "command"),
    "tasks": ("task_number", "title"),
}


def show(answer: Mapping[str, object]) -> None:
    """Write an answer to stdout, a refusal to stderr."""
    refused = answer.get("status") == "error"
    console = Console(stderr=refused, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _WIDTH
    if refused:
        console.print(Text(f"{answer.get('error_type')}: {answer.get('error')}", style="bold red"))
        console.print(Text(str(answer.get("remediation") or "")))
        valid = answer.get("valid_actions")
        if valid:
            console.print(Text(", ".join(cast("Sequence[str]", valid))))
        return
    for part in _parts(answer):
        console.print(part)


def _parts(members: Mapping[str, object]) -> list[RenderableType]:
    """Plain members first, in one table without lines; then whatever is larger."""
    plain = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    plain.add_column(style="bold", no_wrap=True)
    plain.add_column(overflow="fold")
    large: list[RenderableType] = []
    for name, value in members.items():
        if name in _HIDDEN and members.get("action") is not None:
            continue
        if name in _COLUMNS:
            large.append(_table(name, cast("Sequence[Mapping[str, object]]", value)))
        elif name == "content":
            large.append(Panel(Markdown(str(value)), border_style="dim"))
        elif isinstance(value, dict):
            large.append(_section(name, cast("dict[str, object]", value)))
        else:
            plain.add_row(name, Text(_shown(name, value)))
    return [plain, *large] if plain.row_count else large


def _section(name: str, members: Mapping[str, object]) -> RenderableType:
    if not members:
        return Text(f"{name}: none", style="dim")
    return Panel(Group(*_parts(members)), title=name, title_align="left", border_style="dim")


def _table(name: str, rows: Sequence[Mapping[str, object]]) -> RenderableType:
    if not rows:
        return Text(f"{name}: none", style="dim")
    columns = [column for column in _COLUMNS[name] if any(column in row for row in rows)]
    if any("error" in row for row in rows):
        columns.append("error")
    cells = [[_shown(column, row.get(column)) for column in columns] for row in rows]
    return _Rows(name, columns, cells)


class _Rows:
    """A table; where that would break words, one row below the other."""

    def __init__(self, name: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        self._name = name
        self._columns = columns
        self._cells = cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heads = [column.replace("_", " ") for column in self._columns]
        least = 1
        for column, head, *cells in zip(self._columns, heads, *self._cells, strict=True):
            whole = column in _WHOLE
            words = [word for text in (head, *cells) for word in ([text] if whole else text.split())]
            least += 3 + max(map(len, words))
        if least > options.max_width:
            yield Text(self._name, style="bold")
            for row in self._cells:
                plain = Table(show_header=False)
                plain.add_column(style="bold", no_wrap=True)
                plain.add_column(overflow="fold")
                for head, cell in zip(heads, row, strict=True):
                    plain.add_row(head, Text(cell))
                yield plain
            return
        table = Table(title=self._name, title_justify="left", title_style="bold")
        for column, head in zip(self._columns, heads, strict=True):
            table.add_column(head, no_wrap=column in _WHOLE, overflow="fold")
        for row in self._cells:
            table.add_row(*map(Text, row))
        yield table


def _shown(name: str, value: object) -> str:
    if name in _TIMES and isinstance(value, str):
        return f"{value[:10]} {value[11:19]}"
    return _cell(value)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case list():
            return "; ".join(_cell(each) for each in cast("list[object]", value)) or "none"
        case dict():
            members = cast("dict[str, object]", value)
            return ", ".join(f"{name} {_cell(member)}" for name, member in members.items())
        case _:
            return str(value)
