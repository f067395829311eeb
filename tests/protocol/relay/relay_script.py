"""A client, its children and the relay between them, step by step; each step tells all that it caused."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from mcpkeep.protocol.relay.framing import Frame
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.output import Logged, RelayEffect
from mcpkeep.protocol.relay.relay import Relay, RelaySettings
from mcpkeep.protocol.relay.tools import OwnTool
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildExited,
    ChildPromoted,
    ChildUnavailable,
    Exit,
    RelayOrder,
)

Json: TypeAlias = dict[str, Any]
Event: TypeAlias = "tuple[str, Json] | RelayEffect"
"""What went to "client" or "child N", or an effect."""

PREFIX = "keep/"
KILLED = Exit(signal="SIGKILL", stderr_tail=("Traceback", "boom"))
VERSION = "2025-06-18"
MODERN = "2026-07-28"
ENVELOPE: Json = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
KEEP = OwnTool(
    name="mcpkeep",
    title="t",
    description="d",
    input_schema={"type": "object"},
    output_schema={"type": "object"},
    annotations={},
    hides=frozenset({"mcpkeep_old"}),
)
FULL: Json = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "logging": {}}


def line(message: Json | bytes) -> bytes:
    return message if isinstance(message, bytes) else msgspec.json.encode(message) + b"\n"


def request(id_: int | str, method: str, params: Json | None = None) -> Json:
    message: Json = {"jsonrpc": "2.0", "id": id_, "method": method}
    return message if params is None else {**message, "params": params}


def notice(method: str, params: Json | None = None) -> Json:
    message: Json = {"jsonrpc": "2.0", "method": method}
    return message if params is None else {**message, "params": params}


def result(id_: int | str, value: Json | None = None) -> Json:
    return {"jsonrpc": "2.0", "id": id_, "result": value or {}}


def failure(id_: int | str | None, code: int = -32601, message: str = "no") -> Json:
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message}}


def call(id_: int | str, name: str = "echo", **params: Any) -> Json:
    return request(id_, "tools/call", {"name": name, "arguments": {}, **params})


def tool(name: str, **hints: bool) -> Json:
    described: Json = {"name": name, "inputSchema": {"type": "object"}}
    return {**described, "annotations": hints} if hints else described


def initialize(id_: int | str = 0) -> Json:
    client = {"name": "c", "version": "1"}
    return request(
        id_, "initialize", {"protocolVersion": VERSION, "capabilities": {"roots": {}}, "clientInfo": client}
    )


def initialized(capabilities: Json | None = None, version: str = VERSION) -> Json:
    capabilities = FULL if capabilities is None else capabilities
    return {"protocolVersion": version, "capabilities": capabilities, "serverInfo": {"name": "s"}}


def modern(id_: int | str, method: str, params: Json | None = None, **meta: Any) -> Json:
    return request(id_, method, {**(params or {}), "_meta": {**ENVELOPE, **meta}})


def discovered(capabilities: Json | None = None) -> Json:
    return {"supportedVersions": [MODERN], "capabilities": FULL if capabilities is None else capabilities}


def acknowledged(id_: int | str = "L", **honoured: object) -> Json:
    meta = {"io.modelcontextprotocol/subscriptionId": id_}
    return notice("notifications/subscriptions/acknowledged", {"notifications": honoured, "_meta": meta})


class LaneFirst(Relay):
    """A relay that is driven as the actor drives it: what is plain takes the lane."""

    def __init__(self, *, own_tools: Sequence[OwnTool], settings: RelaySettings, own_prefix: str) -> None:
        super().__init__(own_tools=own_tools, settings=settings, own_prefix=own_prefix)
        self._client_side, self.from_client = self.from_client, self._calls_first
        self._child_side, self.from_child = self.from_child, self._answers_first

    def _calls_first(self, frames: Sequence[Frame], now: float) -> None:
        passed = self.lane.calls(frames, now)
        if passed:
            assert self.lane.link is not None
            self.output.child.setdefault(self.lane.link.generation, []).extend(passed)
        self._client_side(frames[len(passed) :], now)

    def _answers_first(self, generation: int, frames: Sequence[Frame], now: float) -> None:
        passed = self.lane.answers(generation, frames, now)
        self.output.client.extend(passed)
        self._child_side(generation, frames[len(passed) :], now)


class Script:
    """Each step returns what it caused, in the order client, children, effects."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("health", HealthSettings(after_idle=0))
        self.relay = LaneFirst(own_tools=(KEEP,), settings=RelaySettings(**settings), own_prefix=PREFIX)
        self.now = 0.0
        self.logs: list[Logged] = []
        self.sent: dict[int, int] = {}
        self.own: dict[int, list[Json]] = {}
        """The relay's own requests that no child has answered."""

    # Steps

    def client(self, *messages: Json | bytes) -> list[Event]:
        self.relay.from_client([line(message) for message in messages], self.now)
        return self.take()

    def child(self, generation: int, *messages: Json | bytes) -> list[Event]:
        self.relay.from_child(generation, [line(message) for message in messages], self.now)
        return self.take()

    def order(self, order: RelayOrder) -> list[Event]:
        self.relay.order(order, self.now)
        return self.take()

    def attach(self, generation: int) -> list[Event]:
        return self.order(ChildAttached(generation))

    def promote(self, generation: int) -> list[Event]:
        return self.order(ChildPromoted(generation))

    def hold(self) -> list[Event]:
        return self.order(CallsHeld())

    def exit(self, generation: int, *, unread: int = 0, planned: bool = False) -> list[Event]:
        """The child ends; the last `unread` bytes sent to it were not taken."""
        accepted = self.sent.get(generation, 0) - unread
        return self.order(ChildExited(generation, KILLED, accepted, planned))

    def unavailable(self) -> list[Event]:
        return self.order(ChildUnavailable(KILLED, "It is broken. Mend it."))

    def tick(self, now: float) -> list[Event]:
        self.now = now
        self.relay.tick(now)
        return self.take()

    def answer(self, generation: int, method: str, value: Json | None = None) -> list[Event]:
        """The child answers the oldest of our own requests for `method`."""
        own = next(own for own in self.own[generation] if own["method"] == method)
        self.own[generation].remove(own)
        return self.child(generation, result(own["id"], value))

    def reject(self, generation: int, method: str) -> list[Event]:
        own = next(own for own in self.own[generation] if own["method"] == method)
        self.own[generation].remove(own)
        return self.child(generation, failure(own["id"]))

    def take(self) -> list[Event]:
        out = self.relay.output
        events: list[Event] = []
        for frame in out.client:
            assert frame.endswith(b"\n") and frame.count(b"\n") == 1
            events.append(("client", msgspec.json.decode(frame)))
        for generation, frames in out.child.items():
            for frame in frames:
                message = msgspec.json.decode(frame)
                self.sent[generation] = self.sent.get(generation, 0) + len(frame)
                if str(message.get("id", "")).startswith(PREFIX) and "method" in message:
                    self.own.setdefault(generation, []).append(message)
                    message = {"own": message["method"], **message.get("params", {})}
                events.append((f"child {generation}", message))
        for effect in out.effects:
            if isinstance(effect, Logged):
                self.logs.append(effect)
            else:
                events.append(effect)
        out.client, out.child, out.effects = [], {}, []
        return events

    # Where it may start

    @classmethod
    def legacy(cls, capabilities: Json | None = None, **settings: Any) -> "Script":
        """A client that has opened its session with child 1."""
        script = cls(**settings)
        script.attach(1)
        script.client(initialize())
        script.child(1, result(0, initialized(capabilities)))
        script.client(notice("notifications/initialized"))
        return script

    @classmethod
    def modern(cls, capabilities: Json | None = None, **settings: Any) -> "Script":
        script = cls(**settings)
        script.attach(1)
        script.client(modern(0, "server/discover"))
        script.child(1, result(0, discovered(capabilities)))
        return script

    def listed(self, tools: Iterable[Json], generation: int = 1) -> "Script":
        """The client has listed these tools."""
        ask = modern if self.relay.opening.era.value == "modern" else request
        self.client(ask("list", "tools/list"))
        self.child(generation, result("list", {"tools": list(tools)}))
        return self

    def opened(self, generation: int, capabilities: Json | None = None) -> list[Event]:
        """Attach a further child, which opens the session as it is asked to."""
        events = self.attach(generation)
        if self.relay.opening.era.value == "modern":
            return events + self.answer(generation, "server/discover", discovered(capabilities))
        return events + self.answer(generation, "initialize", initialized(capabilities))


def to_client(events: list[Event]) -> list[Json]:
    return [event[1] for event in events if isinstance(event, tuple) and event[0] == "client"]


def to_child(events: list[Event], generation: int) -> list[Json]:
    return [event[1] for event in events if isinstance(event, tuple) and event[0] == f"child {generation}"]


def effects(events: list[Event]) -> list[RelayEffect]:
    return [event for event in events if not isinstance(event, tuple)]


def lost(id_: int | str, reason: str, *, retryable: bool) -> Json:
    """The error of a lost request without its text."""
    return {"id": id_, "code": -32603, "reason": reason, "retryable": retryable}


def brief(message: Json) -> Json:
    """The same of an error that went out."""
    error = message["error"]
    data = error["data"]
    assert set(data) == {"reason", "retryable", "exit_code", "signal", "stderr_tail"}
    return {
        "id": message["id"],
        "code": error["code"],
        "reason": data["reason"],
        "retryable": data["retryable"],
    }


def only(events: list[Event]) -> tuple[str, Json]:
    """The one message that went out, and where to; nothing else happened."""
    [event] = events
    assert isinstance(event, tuple)
    return event


def told(events: list[Event]) -> Json:
    """The one message that went to the client; nothing else happened."""
    to, message = only(events)
    assert to == "client"
    return message
