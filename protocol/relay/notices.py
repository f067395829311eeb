"""What mcpkeep itself tells the client: log notices, and lists that changed with a child."""

from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.jsonrpc import encode_notification
from mcpkeep.protocol.relay.listens import listens_changed
from mcpkeep.protocol.relay.listing import ListingChange
from mcpkeep.protocol.relay.mcp import LOG_LEVELS, Era
from mcpkeep.protocol.relay.opening import Opening
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.standing import Standing

__all__ = ["Notices"]

_MOST_EARLY = 16


class Notices:
    def __init__(self, out: Output, *, calls: Calls, opening: Opening, standing: Standing) -> None:
        self._out = out
        self._calls = calls
        self._opening = opening
        self._standing = standing
        self._early: list[tuple[str, str]] = []

    def tell(self, level: str, text: str) -> None:
        """Tell the client through its log, if it listens at that level (one of LOG_LEVELS)."""
        wanted = self._wanted()
        if any(name in LOG_LEVELS and LOG_LEVELS.index(level) >= LOG_LEVELS.index(name) for name in wanted):
            params = {"level": level, "logger": "mcpkeep", "data": text}
            self._out.client.append(encode_notification("notifications/message", params))

    def tell_early(self, level: str, text: str) -> None:
        """Tell the client so, or the one that is yet to come."""
        if self._wanted():
            self.tell(level, text)
        elif len(self._early) < _MOST_EARLY:
            self._early.append((level, text))

    def listens(self) -> None:
        """The client may listen from now on."""
        if self._early and self._wanted():
            early, self._early = self._early, []
            for level, text in early:
                self.tell(level, text)

    def _wanted(self) -> list[str]:
        """From which level on it listens, each name once or more; empty where it does not."""
        match self._opening.era:
            case Era.LEGACY if self._opening.initialized and self._opening.is_told:
                return [self._standing.level or "info"]
            case Era.MODERN:
                return self._calls.log_level_asked()
            case _:
                return []

    def tell_change(self, change: ListingChange | None) -> None:
        """Tell that a list is another one, in the way in which this client is told of it."""
        if change is None:
            return
        if self._opening.era is Era.LEGACY:
            if change.kind.capability in self._opening.capabilities:
                self._out.client.append(encode_notification(change.kind.changed))
        else:
            self._out.client += listens_changed(self._calls, change.kind)
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (
                ("added", change.added),
                ("removed", change.removed),
                ("changed", change.changed),
            )
            if names
        ]
        self.tell(
            "info", f"The MCP server's {change.kind.member} changed: {'; '.join(parts) or 'unknown how'}."
        )
