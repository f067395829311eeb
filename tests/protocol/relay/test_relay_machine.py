"""The relay under arbitrary interleavings of a client, honest and odd children, crashes and replacements."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType]
)

from mcpkeep.protocol.relay.call import HELD
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.output import OwnAnswered
from mcpkeep.protocol.relay.relay import Relay, RelaySettings
from mcpkeep.protocol.relay.tools import ToolCalled, ToolResult
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildExited,
    ChildFrozen,
    ChildPromoted,
    ChildReady,
    ChildRefused,
    ChildThawed,
    ChildUnavailable,
    ChildWedged,
    Exit,
    RelayOrder,
)
from tests.protocol.relay.relay_script import (
    KEEP,
    PREFIX,
    Json,
    LaneFirst,
    acknowledged,
    discovered,
    failure,
    initialized,
    line,
    modern,
    notice,
    request,
    result,
)
from tests.protocol.relay.relay_script import initialize as initialize_request

TOOLS: tuple[list[Json], ...] = (
    [{"name": "safe", "inputSchema": {}, "annotations": {"readOnlyHint": True}}, {"name": "risky"}],
    [{"name": "safe", "inputSchema": {}, "annotations": {"readOnlyHint": True}}],
    [],
)
METHODS = ("tools/call", "tools/list", "resources/read", "prompts/list", "custom/work", "tasks/get")
HOLD = 30.0
ANY = st.integers(0, 1000)


class Child:
    """One honest child: it acts on what it has read, answers each request once, and talks in between."""

    def __init__(self, generation: int, tools: list[Json]) -> None:
        self.generation = generation
        self.tools = tools
        self.pipe: list[bytes] = []
        """Written by the relay, not read yet."""
        self.sent = 0
        self.read = 0
        self.opening: str | None = None
        self.ready_for_requests = False
        self.initialized = 0
        self.open: dict[int | str, Json] = {}
        """Requests read and not answered."""
        self.asked = 0
        self.level: str | None = None
        self.uris: set[str] = set()


class RelayMachine(RuleBasedStateMachine):
    kind: type[Relay] = Relay

    def __init__(self) -> None:
        super().__init__()
        self.relay = self.kind(
            own_tools=(KEEP,),
            settings=RelaySettings(hold=HOLD, health=HealthSettings(after_idle=20, timeout=5)),
            own_prefix=PREFIX,
        )
        self.now = 0.0
        # The client.
        self.modern = False
        self.count = 0
        self.waiting: dict[int | str, Json] = {}
        """Requests that the client has not had an answer to."""
        self.over: set[int | str] = set()
        """Ids answered or cancelled."""
        self.told = False
        self.sent_initialized = False
        self.asked: dict[str, int] = {}
        """What children ask the client, by the id it sees."""
        self.asked_ever: set[str] = set()
        self.acknowledged: set[int | str] = set()
        self.setting: int | str | None = None
        self.level: str | None = None
        self.uris: set[str] = set()
        self.known: list[Json] | None = None
        self.stale = False
        # The child actor.
        self.children: dict[int, Child] = {}
        self.asleep: dict[int, Child] = {}
        """Frozen ones."""
        self.generation = 0
        self.current: int | None = None
        self.candidate: int | None = None
        self.ready: set[int] = set()
        self.drained: set[int] = set()
        self.holding = False
        self.tool_calls: set[int | str] = set()
        # Ourselves.
        self.ours: dict[str, int] = {}
        """Requests of our own that nobody has answered, by the child; 0 is the client."""

    # What goes out

    def flush(self) -> None:
        """Look at all that the relay wants sent."""
        out = self.relay.output
        client, out.client = out.client, []
        children, out.child = out.child, {}
        effects, out.effects = out.effects, []
        for generation, frames in children.items():
            child = self.children[generation]
            for frame in frames:
                child.pipe.append(frame)
                child.sent += len(frame)
                self.check_sent(child, msgspec.json.decode(frame))
        for frame in client:
            assert frame.endswith(b"\n") and b"\n" not in frame[:-1]
            self.client_gets(msgspec.json.decode(frame))
        for effect in effects:
            match effect:
                case ChildReady(generation):
                    assert generation in self.children
                    self.ready.add(generation)
                case ChildDrained(generation):
                    assert generation in self.children and generation not in self.drained
                    assert not self.relay.calls.in_flight(generation)
                    self.drained.add(generation)
                case ChildRefused() | ChildWedged():
                    assert isinstance(effect, ChildWedged), effect
                case OwnAnswered(id_):
                    del self.ours[id_]
                case ToolCalled(call):
                    self.tool_calls.add(call.id)
                case _:
                    pass

    def check_sent(self, child: Child, message: Json) -> None:
        """Nothing goes to a child that it is not open for."""
        method = message.get("method")
        if method is None or method == "notifications/cancelled":
            return
        if child.opening is None:
            assert "id" in message, f"{method} before the session is open"
            assert self.modern or method == "initialize", f"{method} before the session is open"
            child.opening = method
        elif method == "initialize":
            raise AssertionError("a second initialize")
        elif method == "notifications/initialized":
            child.initialized += 1
            assert child.initialized == 1 and self.sent_initialized and not self.modern
        elif "id" in message and self.sent_initialized and method != "ping":
            assert self.modern or child.initialized, f"{method} before notifications/initialized"

    def client_gets(self, message: Json) -> None:
        method = message.get("method")
        if method is None:
            self.answered(message)
        elif message.get("id") in self.ours:
            assert (method, message["params"]) == ("roots/list", {"why": 1})
        elif "id" in message:
            assert isinstance(message["id"], str) and not message["id"].isdigit()
            assert message["id"] not in self.asked_ever, "an id was used twice"
            assert message["params"]["_meta"]["progressToken"] == message["id"]
            self.asked_ever.add(message["id"])
            self.asked[message["id"]] = message["params"]["from"]
        elif method == "notifications/cancelled":
            assert self.asked.pop(message["params"]["requestId"], None) is not None
        elif method == "notifications/progress":
            assert message["params"]["progressToken"] in self.waiting, "progress for what is over"
        elif method == "notifications/subscriptions/acknowledged":
            id_ = message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
            assert id_ in self.waiting and id_ not in self.acknowledged
            self.acknowledged.add(id_)
        elif method == "notifications/tools/list_changed":
            if self.modern:
                id_ = message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
                assert id_ in self.waiting and id_ in self.acknowledged
            self.stale = True
        elif method == "notifications/message" and "from" in message["params"]:
            assert message["params"]["from"] in self.children
            assert message["params"]["from"] != self.candidate or self.current is None

    def answered(self, message: Json) -> None:
        id_ = message["id"]
        assert id_ in self.waiting, f"an answer to {id_!r}, which nobody waits for: {message}"
        asked = self.waiting.pop(id_)
        self.over.add(id_)
        self.tool_calls.discard(id_)
        if id_ == self.setting:
            self.setting = None
        if "error" in message:
            return
        match asked["method"]:
            case "initialize" | "server/discover":
                self.told = True
            case "tools/list":
                names = [tool["name"] for tool in message["result"]["tools"]]
                assert names.count("mcpkeep") == 1
                self.known = [tool for tool in message["result"]["tools"] if tool["name"] != "mcpkeep"]
                self.stale = False
            case "logging/setLevel":
                self.level = asked["params"]["level"]
            case "resources/subscribe":
                self.uris.add(asked["params"]["uri"])
            case _:
                pass

    # The client

    @initialize(is_modern=st.booleans(), start_first=st.booleans())
    def begin(self, is_modern: bool, start_first: bool) -> None:
        self.modern = is_modern
        if start_first:
            self.attach(0)
        self.ask("server/discover" if is_modern else "initialize")

    def say(self, message: Json) -> None:
        self.relay.from_client([line(message)], self.now)
        self.flush()

    def ask(self, method: str, params: Json | None = None) -> int | str:
        self.count += 1
        id_: int | str = self.count if self.count % 2 else f"c{self.count}"
        if method == "initialize":
            message = initialize_request(id_)
        elif self.modern:
            message = modern(id_, method, params, progressToken=id_)
        else:
            message = request(id_, method, {**(params or {}), "_meta": {"progressToken": id_}})
        self.waiting[id_] = message
        self.say(message)
        return id_

    @precondition(lambda self: self.told and not self.sent_initialized and not self.modern)
    @rule()
    def client_is_initialized(self) -> None:
        self.sent_initialized = True
        self.say(notice("notifications/initialized"))

    @precondition(lambda self: self.told and not self.sent_initialized and self.modern)
    @rule()
    def client_is_open(self) -> None:
        self.sent_initialized = True

    @precondition(lambda self: self.sent_initialized)
    @rule(method=st.sampled_from(METHODS), name=st.sampled_from(["safe", "risky", "unknown", "mcpkeep"]))
    def client_asks(self, method: str, name: str) -> None:
        params = {"name": name, "uri": "a:b", "taskId": "t"}
        id_ = self.ask(method, params)
        if method == "tools/call" and name == "mcpkeep":
            assert id_ in self.tool_calls

    @precondition(lambda self: self.sent_initialized and self.setting is None)
    @rule(what=st.sampled_from(["level", "uri"]), value=st.sampled_from(["debug", "error", "info"]))
    def client_sets(self, what: str, value: str) -> None:
        if self.modern:
            return
        method = {"level": "logging/setLevel", "uri": "resources/subscribe"}[what]
        self.setting = "pending"
        id_ = self.ask(method, {what: value})
        self.setting = id_ if id_ in self.waiting else None

    @precondition(lambda self: self.sent_initialized and self.modern)
    @rule()
    def client_listens(self) -> None:
        self.ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}})

    @precondition(lambda self: self.waiting)
    @rule(pick=ANY)
    def client_cancels(self, pick: int) -> None:
        id_ = list(self.waiting)[pick % len(self.waiting)]
        if self.waiting[id_]["method"] in ("initialize", "server/discover") or id_ == self.setting:
            return
        del self.waiting[id_]
        self.over.add(id_)
        self.tool_calls.discard(id_)
        self.say(notice("notifications/cancelled", {"requestId": id_}))

    @rule(pick=ANY)
    def client_cancels_what_is_over(self, pick: int) -> None:
        ids: list[int | str] = [*self.over, 10_000, "nothing"]
        self.relay.from_client(
            [line(notice("notifications/cancelled", {"requestId": ids[pick % len(ids)]}))], self.now
        )
        assert self.relay.output.child == {}
        self.flush()

    @precondition(lambda self: self.asked)
    @rule(pick=ANY)
    def client_answers(self, pick: int) -> None:
        id_ = list(self.asked)[pick % len(self.asked)]
        self.say(result(id_, {"for": self.asked.pop(id_)}))

    @rule()
    def client_answers_what_nobody_asked(self) -> None:
        for id_ in (7, "7", "mcpkeep:1.99999"):
            self.relay.from_client([line(result(id_))], self.now)
        assert self.relay.output.child == {}
        self.flush()

    @precondition(lambda self: self.ours)
    @rule(pick=ANY, junk=st.booleans())
    def client_answers_us(self, pick: int, junk: bool) -> None:
        ids = [id_ for id_, whom in self.ours.items() if whom == 0]
        if ids:
            id_ = ids[pick % len(ids)]
            if junk:
                self.relay.from_client(
                    [b'{"jsonrpc":"2.0","id":"%s","result":NaN}\n' % id_.encode()], self.now
                )
                self.relay.output.client.clear()  # it is told, too
                self.flush()
            else:
                self.say(result(id_))
            assert id_ not in self.ours

    @precondition(lambda self: self.sent_initialized)
    @rule()
    def client_changes_roots(self) -> None:
        self.say(notice("notifications/roots/list_changed"))

    @rule(junk=st.sampled_from([b"\xff\n", b"[]\n", b"[[1]]\n", b"{}\n", b'{"jsonrpc":"2.0"}\n', b"]\n"]))
    def client_babbles(self, junk: bytes) -> None:
        self.relay.from_client([junk], self.now)
        answers, self.relay.output.client = self.relay.output.client, []
        assert answers and all(msgspec.json.decode(answer)["id"] is None for answer in answers)
        assert self.relay.output.child == {}

    @precondition(lambda self: self.tool_calls)
    @rule(pick=ANY)
    def our_tool_answers(self, pick: int) -> None:
        id_ = sorted(self.tool_calls, key=str)[pick % len(self.tool_calls)]
        self.relay.progress(id_, 1, None, "done")
        self.relay.answer(id_, ToolResult(msgspec.Raw(b"{}")))
        assert len(self.relay.output.client) == 2
        self.flush()
        self.relay.answer(id_, ToolResult(msgspec.Raw(b"{}")))
        assert self.relay.output.client == []

    # The children

    def pick(self, pick: int) -> Child:
        return list(self.children.values())[pick % len(self.children)]

    def tell(self, child: Child, message: Json | bytes) -> None:
        self.relay.from_child(child.generation, [line(message)], self.now)
        self.flush()

    def read(self, child: Child) -> None:
        """The child reads one line."""
        frame = child.pipe.pop(0)
        child.read += len(frame)
        message = msgspec.json.decode(frame)
        method = message.get("method")
        if method is None:
            assert message["result"]["for"] == child.generation, "an answer to another child's request"
        elif method == "notifications/initialized":
            child.ready_for_requests = True
        elif method == "notifications/cancelled":
            asked = child.open.get(message["params"]["requestId"])
            if asked is not None and asked["method"] == "subscriptions/listen":
                del child.open[message["params"]["requestId"]]
        elif "id" in message:
            assert message["id"] not in child.open, "an id is in use twice"
            child.open[message["id"]] = message
            if method == "subscriptions/listen":
                self.tell(child, acknowledged(message["id"]))
            elif method in ("logging/setLevel", "resources/subscribe"):
                if method == "logging/setLevel":
                    child.level = message["params"]["level"]
                else:
                    child.uris.add(message["params"]["uri"])
                self.reply(child, message["id"])

    def reply(self, child: Child, id_: int | str) -> None:
        message = child.open.pop(id_)
        match message["method"]:
            case "initialize":
                answer = result(id_, initialized())
            case "server/discover":
                answer = result(id_, discovered())
            case "tools/list":
                answer = result(id_, {"tools": child.tools})
            case _:
                answer = result(id_, {"from": child.generation})
        self.tell(child, answer)

    def answerable(self, child: Child) -> list[int | str]:
        return [id_ for id_, asked in child.open.items() if asked["method"] != "subscriptions/listen"]

    @precondition(lambda self: any(child.pipe for child in self.children.values()))
    @rule(pick=ANY, lines=st.integers(1, 5))
    def child_reads(self, pick: int, lines: int) -> None:
        readers = [child for child in self.children.values() if child.pipe]
        child = readers[pick % len(readers)]
        for _ in range(min(lines, len(child.pipe))):
            self.read(child)

    @precondition(lambda self: any(self.answerable(child) for child in self.children.values()))
    @rule(pick=ANY, which=ANY, fails=st.booleans())
    def child_answers(self, pick: int, which: int, fails: bool) -> None:
        busy = [child for child in self.children.values() if self.answerable(child)]
        child = busy[pick % len(busy)]
        ids = self.answerable(child)
        id_ = ids[which % len(ids)]
        if fails and child.open[id_]["method"] in ("tools/call", "custom/work"):
            del child.open[id_]
            self.tell(child, failure(id_))
        else:
            self.reply(child, id_)

    @precondition(lambda self: any(self.answerable(child) for child in self.children.values()))
    @rule(pick=ANY)
    def child_makes_progress(self, pick: int) -> None:
        for child in self.children.values():
            for id_, message in child.open.items():
                token = message.get("params", {}).get("_meta", {}).get("progressToken")
                if token is not None and token in self.waiting:
                    self.tell(child, notice("notifications/progress", {"progressToken": id_, "progress": 1}))

    @precondition(lambda self: self.children)
    @rule(pick=ANY)
    def child_logs(self, pick: int) -> None:
        child = self.pick(pick)
        self.tell(child, notice("notifications/message", {"level": "info", "from": child.generation}))

    @precondition(lambda self: self.children and not self.modern)
    @rule(pick=ANY, cancels=st.booleans())
    def child_asks(self, pick: int, cancels: bool) -> None:
        child = self.pick(pick)
        if not child.ready_for_requests:
            return
        child.asked += 1
        params: Json = {"from": child.generation, "_meta": {"progressToken": child.asked}}
        self.tell(child, request(child.asked, "sampling/createMessage", params))
        if cancels:
            before = len(self.asked)
            self.tell(child, notice("notifications/cancelled", {"requestId": child.asked}))
            assert len(self.asked) == before - 1

    @precondition(lambda self: self.children)
    @rule(pick=ANY, other=ANY)
    def child_answers_what_it_was_not_asked(self, pick: int, other: int) -> None:
        child = self.pick(pick)
        here = {id_ for id_, call in self.relay.calls.table.items() if call.generation == child.generation}
        ids = [id_ for id_ in [*self.waiting, *self.over, 10_000, "x"] if id_ not in here]
        self.relay.from_child(child.generation, [line(result(ids[other % len(ids)]))], self.now)
        assert (self.relay.output.client, self.relay.output.child) == ([], {})
        self.flush()

    @precondition(lambda self: self.children)
    @rule(pick=ANY, junk=st.sampled_from([b"\xff\n", b"starting up\n", b"[]\n", b"[[1]]\n", b"{}\n", b"{\n"]))
    def child_babbles(self, pick: int, junk: bytes) -> None:
        self.relay.from_child(self.pick(pick).generation, [junk], self.now)
        assert (self.relay.output.client, self.relay.output.child) == ([], {})
        self.flush()

    @rule(generation=st.sampled_from([0, -1, 10_000]))
    def a_stranger_speaks(self, generation: int) -> None:
        messages = [line(result(id_)) for id_ in self.waiting]
        for stranger in (generation, *self.asleep):
            self.relay.from_child(stranger, [*messages, line(notice("notifications/message"))], self.now)
        assert (self.relay.output.client, self.relay.output.child) == ([], {})

    # The child actor

    def order(self, order: RelayOrder) -> None:
        self.relay.order(order, self.now)
        self.flush()

    @precondition(lambda self: self.candidate is None and not self.holding)
    @rule(tools=st.integers(0, 2), beside=st.booleans())
    def attach(self, tools: int, beside: bool = False) -> None:
        if self.current is not None and len(self.children) > 3:
            return
        self.generation += 1
        child = self.children[self.generation] = Child(self.generation, TOOLS[tools])
        if self.current is None and not beside:
            self.current = self.generation
        else:
            self.candidate = self.generation
        self.order(ChildAttached(child.generation, beside))

    def former(self) -> list[int]:
        """Those that served; the session is open with each."""
        links = self.relay._succession.links  # pyright: ignore[reportPrivateUsage]
        return [g for g in self.children if g not in (self.current, self.candidate) and links[g].is_ready]

    @precondition(lambda self: self.told and self.former())
    @rule(pick=ANY)
    def freeze(self, pick: int) -> None:
        former = self.former()
        child = self.children.pop(former[pick % len(former)])
        self.asleep[child.generation] = child
        self.drained.discard(child.generation)
        before = set(self.waiting)
        at = {id_ for id_, call in self.relay.calls.table.items() if call.generation == child.generation}
        self.order(ChildFrozen(child.generation, child.sent))
        assert before - set(self.waiting) <= at, "only what it had may be answered"
        assert child.generation not in self.asked.values(), "what it asked is cancelled"
        assert child.generation not in self.ours.values(), "what it was asked is answered"

    @precondition(lambda self: self.asleep and self.candidate is None)
    @rule(pick=ANY, dies=st.booleans())
    def wake(self, pick: int, dies: bool) -> None:
        generation = list(self.asleep)[pick % len(self.asleep)]
        child = self.asleep.pop(generation)
        if dies:
            self.order(ChildExited(generation, Exit(code=1), child.sent))
            assert self.relay.output.client == []
        else:
            self.children[generation] = child
            self.order(ChildThawed(generation))
            self.candidate = generation
            self.ready.add(generation)
            self.promote()

    @precondition(lambda self: self.children)
    @rule(pick=ANY)
    def we_ask_a_child(self, pick: int) -> None:
        generation = self.pick(pick).generation
        id_ = self.relay.own_requests.ask_child(generation, "tools/call", {"name": "safe"})
        if id_ is not None:
            self.ours[id_] = generation
        self.flush()

    @rule()
    def we_ask_the_client(self) -> None:
        id_ = self.relay.own_requests.ask_client("roots/list", {"why": 1})
        assert (id_ is not None) == (self.sent_initialized and not self.modern)
        if id_ is not None:
            self.ours[id_] = 0
        self.flush()

    @precondition(lambda self: self.ours)
    @rule(pick=ANY)
    def we_give_up(self, pick: int) -> None:
        id_ = list(self.ours)[pick % len(self.ours)]
        del self.ours[id_]
        self.relay.own_requests.give_up(id_)
        frames = [self.relay.output.client, *self.relay.output.child.values()]
        [cancelled] = [frame for to in frames for frame in to]
        assert msgspec.json.decode(cancelled)["params"] == {"requestId": id_}
        self.relay.output.client.clear()
        self.flush()

    @precondition(lambda self: self.candidate is not None and self.candidate in self.ready)
    @rule()
    def promote(self) -> None:
        assert self.candidate is not None
        self.current, self.candidate = self.candidate, None
        self.holding = False
        self.order(ChildPromoted(self.current))

    @precondition(lambda self: self.current in self.ready and self.candidate is None and not self.holding)
    @rule()
    def hold(self) -> None:
        self.holding = True
        self.order(CallsHeld())

    @precondition(lambda self: self.children)
    @rule(pick=ANY, unread=st.integers(0, 100))
    def crash(self, pick: int, unread: int) -> None:
        self.exit(self.pick(pick), unread, planned=False)

    @precondition(lambda self: self.drained)
    @rule(pick=ANY)
    def end_what_is_drained(self, pick: int) -> None:
        generation = sorted(self.drained)[pick % len(self.drained)]
        self.exit(self.children[generation], 0, planned=True)

    def exit(self, child: Child, unread: int, *, planned: bool) -> None:
        """It had taken what it read, and some share of what it did not."""
        accepted = child.sent - (child.sent - child.read) * unread // 100
        before = set(self.waiting)
        del self.children[child.generation]
        self.ready.discard(child.generation)
        self.drained.discard(child.generation)
        if self.current == child.generation:
            self.current, self.holding = None, False
        if self.candidate == child.generation:
            self.candidate = None
        at = {id_ for id_, call in self.relay.calls.table.items() if call.generation == child.generation}
        self.order(ChildExited(child.generation, Exit(code=1), accepted, planned))
        assert before - set(self.waiting) <= at, "only what it had may be answered"
        assert child.generation not in self.asked.values(), "what it asked is cancelled"

    @precondition(lambda self: not self.children and self.told)
    @rule()
    def give_up(self) -> None:
        self.order(ChildUnavailable(Exit(code=1), "Broken."))
        assert set(self.waiting) == self.tool_calls

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.relay.tick(self.now)
        self.flush()

    # What always holds

    @invariant()
    def the_table_is_what_the_client_waits_for(self) -> None:
        assert set(self.relay.calls.table) == set(self.waiting)

    @invariant()
    def held_bytes_are_those_of_the_held_requests(self) -> None:
        held = [len(call.frame) for call in self.relay.calls if call.generation == HELD]
        assert self.relay.calls.held_bytes == sum(held)

    @invariant()
    def each_call_is_at_a_child_that_lives(self) -> None:
        assert {call.generation for call in self.relay.calls} <= {HELD, -1, *self.children}

    @invariant()
    def nothing_waits_while_a_child_serves(self) -> None:
        serving = self.relay._succession.serving  # pyright: ignore[reportPrivateUsage]
        if serving is not None and serving.is_open and not self.holding:
            assert not self.relay.calls.held()

    @invariant()
    def what_is_due_is_in_the_future_once_it_was_done(self) -> None:
        self.relay.tick(self.now)
        self.flush()
        due = self.relay.deadline()
        assert due is None or due > self.now

    def teardown(self) -> None:
        """All comes to rest: everything is read and answered, and nothing is left behind."""
        for _ in range(40):
            if self.holding and self.current in self.drained:
                self.exit(self.children[self.current], 0, planned=True)
            if self.current is None and self.candidate is None:
                self.attach(0)
            if self.candidate is not None and self.candidate in self.ready:
                self.promote()
            if self.told and not self.sent_initialized:
                self.client_is_open() if self.modern else self.client_is_initialized()
            for id_ in list(self.tool_calls):
                self.relay.answer(id_, ToolResult(msgspec.Raw(b"{}")))
                self.flush()
            for child in list(self.children.values()):
                while child.pipe:
                    self.read(child)
                for id_ in self.answerable(child):
                    self.reply(child, id_)
            for id_ in list(self.asked):
                self.say(result(id_, {"for": self.asked.pop(id_)}))
            for id_ in [id_ for id_, whom in self.ours.items() if whom == 0]:
                self.say(result(id_))
        for generation in sorted(self.drained):
            self.exit(self.children[generation], 0, planned=True)
        assert self.current is not None and list(self.children) == [self.current]
        listens = {id_ for id_, asked in self.waiting.items() if asked["method"] == "subscriptions/listen"}
        assert set(self.waiting) == listens == set(self.relay.calls.table)
        assert self.ours == {}
        self.at_rest(self.children[self.current])

    def at_rest(self, child: Child) -> None:
        relay: Any = self.relay
        link = relay._succession.serving
        assert link.generation == child.generation and list(relay._succession.links) == [child.generation]
        assert (link.own, relay._succession._minted._asked, relay.calls.held_bytes) == ({}, {}, 0)
        assert (link.is_open, link.is_ready, link.is_draining) == (True, True, False)
        assert link.sent == child.sent == child.read
        assert (child.level, child.uris) == (self.level, self.uris)
        if self.known is not None and self.known != child.tools and (not self.modern or self.acknowledged):
            listening = [id_ for id_ in self.waiting if id_ in self.acknowledged]
            assert self.stale or (self.modern and not listening), "the client knows another list"


class LaneMachine(RelayMachine):
    kind = LaneFirst


@pytest.mark.parametrize("machine", [RelayMachine, LaneMachine])
def test_whatever_happens_each_request_is_answered_once_and_nothing_is_left_behind(
    machine: type[RelayMachine],
) -> None:
    run_state_machine_as_test(  # pyright: ignore[reportUnknownArgumentType]
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
