"""The last lines of a child's stderr, out of whatever bytes it prints."""

from collections import deque
from collections.abc import Callable

__all__ = ["LINE_LIMIT", "TAIL_LINES", "StderrTail"]

TAIL_LINES = 200
LINE_LIMIT = 2000
"""Characters of a line that are kept."""

# UTF-8 takes at most four bytes for a character.
_PENDING_LIMIT = 4 * LINE_LIMIT


class StderrTail:
    """Cuts bytes into lines, keeps the last TAIL_LINES and tells `on_line` each; memory is bounded.

    A carriage return starts the line anew, as on a terminal: a progress bar is one line, its last state.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._pending = b""

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        lines = (self._pending + data).split(b"\n")
        pending = lines.pop()
        for line in lines:
            self._add(line)
        self._pending = _last_state(pending)[:_PENDING_LIMIT]

    def end(self) -> None:
        """Nothing more will come: a last line without its end counts."""
        if self._pending:
            self._add(self._pending)
            self._pending = b""

    def last(self, count: int = TAIL_LINES) -> tuple[str, ...]:
        """The last `count` lines, oldest first, an unfinished one included."""
        lines = [*self._lines, _text(self._pending)] if self._pending else list(self._lines)
        return tuple(lines[-count:])

    def _add(self, line: bytes) -> None:
        text = _text(line)
        self._lines.append(text)
        self._on_line(text)


def _last_state(line: bytes) -> bytes:
    """What a terminal would show, with a final carriage return kept: what follows it is not known yet."""
    body = line.rstrip(b"\r")
    kept = body[body.rfind(b"\r") + 1 :]
    return kept + b"\r" if len(body) < len(line) else kept


def _text(line: bytes) -> str:
    return _last_state(line).rstrip(b"\r")[:_PENDING_LIMIT].decode("utf-8", "replace")[:LINE_LIMIT]
