"""What the client has set for the whole session, and each new child is told: log level, subscriptions."""

from mcpkeep.protocol.relay.call import Call

__all__ = ["Standing"]


class Standing:
    def __init__(self) -> None:
        self.level: str | None = None
        self.uris: dict[str, None] = {}

    def note(self, call: Call) -> None:
        """A child has answered one of the setting requests without an error."""
        if call.subject is None:
            return
        match call.method:
            case "logging/setLevel":
                self.level = call.subject
            case "resources/subscribe":
                self.uris[call.subject] = None
            case "resources/unsubscribe":
                self.uris.pop(call.subject, None)
            case _:
                pass

    def requests(self, *, logging: bool) -> list[tuple[str, dict[str, object]]]:
        """The requests that bring a child to this state; `logging` where it takes log levels at all."""
        requests: list[tuple[str, dict[str, object]]] = []
        if self.level is not None and logging:
            requests.append(("logging/setLevel", {"level": self.level}))
        return requests + [("resources/subscribe", {"uri": uri}) for uri in self.uris]
