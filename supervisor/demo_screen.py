"""What `mcpkeep demo` shows: the events, the calls the client made, and the table that grows out of them."""

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["BAR_SPAN", "Call", "Event", "Outcome", "Screen", "conclude"]

BARS = "▁▂▃▄▅▆▇█"
BAR_SPAN = 0.1
"""Seconds that one bar of a row stands for."""
BAR_COUNT = 15
"""Where there is room; on a narrow terminal the bars give way first."""
_AIRY = 100
"""Columns from which on there is room between the figures."""


Outcome = Literal["answered", "failed", "lost"]
"""`failed` with an error from mcpkeep or the server; `lost` without any answer."""


class Call(msgspec.Struct, frozen=True):
    """One call as the client saw it; times are of `time.monotonic`."""

    sent: float
    ended: float
    outcome: Outcome
    pid: int | None = None
    """The server that answered."""
    error: str = ""

    @property
    def delay(self) -> float:
        """Seconds from the call to its end."""
        return self.ended - self.sent


class Event(msgspec.Struct):
    """Something that was done to the server, and the calls that ended between it and the next event."""

    name: str
    began: float
    may_fail: bool = False
    """True where a call that the server had taken may be lost with it."""
    pid: int | None = None
    """The server afterwards."""
    took: float | None = None
    """Seconds, where it has an end."""
    calls: list[Call] = []

    def count(self, outcome: Outcome) -> int:
        return sum(call.outcome == outcome for call in self.calls)

    @property
    def first_error(self) -> str | None:
        return next((call.error for call in self.calls if call.error), None)

    @property
    def longest(self) -> float:
        """Seconds that the slowest call took."""
        return max((call.delay for call in self.calls), default=0.0)


class Screen:
    """The table while it grows: redrawn on a terminal, one line for each event elsewhere."""

    def __init__(
        self,
        console: "Console",
        events: list[Event],
        heading: str,
        *,
        quiet: bool,
        subject: str = "the server's life",
        timed: bool = False,
    ) -> None:
        """`subject` heads the events; `timed` shows what each took in place of the answered calls."""
        from rich.live import Live

        self._subject, self._timed = subject, timed
        self._console, self._events, self._heading, self._quiet = console, events, heading, quiet
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and not quiet else None
        self._told = 0

    def __enter__(self) -> "Screen":
        if not self._quiet:
            self._console.print(self._heading)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif not self._quiet:
            self._console.print(self._table())

    def show(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif not self._quiet and self._told < len(self._events):
            self._told = len(self._events)
            self._console.print(f"{self._events[-1].name} ...")

    def _table(self) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        padding = (0, 1) if self._console.width >= _AIRY else (0, 0)
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=padding)
        table.add_column(self._subject, no_wrap=True)
        table.add_column("pid", justify="right", no_wrap=True)
        table.add_column("calls", justify="right", no_wrap=True)
        table.add_column("took" if self._timed else "answered", justify="right", style="green", no_wrap=True)
        table.add_column("errors", justify="right", no_wrap=True)
        table.add_column("slowest", justify="right", no_wrap=True)
        # Of what is too wide, a table narrows the columns that may wrap; what stands in this one does not.
        table.add_column(Text("over time", no_wrap=True, overflow="crop"), style="cyan")
        for event in self._events:
            errors = len(event.calls) - event.count("answered")
            took = "" if event.took is None else f"{event.took:.2f} s"
            table.add_row(
                event.name,
                str(event.pid or "…"),
                str(len(event.calls)),
                took if self._timed else str(event.count("answered")),
                Text(str(errors), style="yellow" if errors else "dim"),
                f"{event.longest * 1e3:.0f} ms",
                Text(_bars(event), no_wrap=True, overflow="crop"),
            )
        return table


def _bars(event: Event) -> str:
    """The longest delay of the calls answered in each tenth of a second; a full bar is 200 ms."""
    worst: dict[int, float] = {}
    for call in event.calls:
        slot = max(0, int((call.ended - event.began) / BAR_SPAN))
        worst[slot] = max(worst.get(slot, 0.0), call.delay)
    heights = (worst.get(slot) for slot in range(min(BAR_COUNT, max(worst, default=-1) + 1)))
    return "".join(" " if h is None else BARS[min(7, int(h / 0.2 * 8))] for h in heights)


def conclude(console: "Console", events: list[Event], broken: list[str]) -> None:
    """Say in words what the table means."""
    total = sum(len(event.calls) for event in events)
    errors = sum(event.count("failed") for event in events)
    longest = max((event.longest for event in events), default=0.0)
    if broken:
        console.print("[bold red]Not as promised:[/] " + "; ".join(broken))
        return
    console.print(
        f"[bold green]{total} calls, each answered exactly once[/]; the slowest took {longest * 1e3:.0f} ms. "
        "The server was killed twice and replaced once; the session never closed, and no process is left."
    )
    if errors:
        console.print(
            f"{errors} of them had been taken by a server that was then killed, and may have happened: "
            "mcpkeep answered them with an error and did not repeat them. What only reads was repeated.",
            style="dim",
        )
