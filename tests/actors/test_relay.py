"""The relay at work between wires in memory: what is written where, when reading stops, and what wakes it."""

import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import sniffio
import trio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from msgspec import Raw
from trio.testing import MockClock

from mcpkeep.actors.relay import RelayActor, RequestFailed
from mcpkeep.actors.toolbox import Progress, Toolbox
from mcpkeep.actors.wires import BACKLOG, FLOODED, HELD_LIMIT, HIGH_WATER, RelayWires
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.output import Logged
from mcpkeep.protocol.relay.relay import Relay, RelaySettings
from mcpkeep.protocol.relay.tools import ToolResult
from mcpkeep.protocol.switch import (
    ChildAttached,
    ChildExited,
    ChildFrozen,
    ChildPromoted,
    ChildReady,
    ChildWedged,
    Exit,
    RelayReport,
)
from tests.protocol.relay.relay_script import (
    KEEP,
    Json,
    call,
    discovered,
    failure,
    initialize,
    initialized,
    line,
    modern,
    notice,
    request,
    result,
)

pytestmark = pytest.mark.anyio

JUMPING = pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
KILLED = Exit(signal="SIGKILL")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


class FakeWire:
    """Takes at most `room` bytes by itself; the rest is queued."""

    def __init__(self) -> None:
        self.taken = b""
        self.room: float = float("inf")
        self.rest = b""
        self.paused = False
        self.moves: list[str] = []

    @property
    def accepted(self) -> int:
        return len(self.taken)

    @property
    def queued(self) -> int:
        return len(self.rest)

    def write(self, data: bytes) -> bool:
        self.rest += data
        if self.room == float("inf"):
            self.drain()
        return self.queued <= HIGH_WATER

    def drain(self) -> None:
        self.taken, self.rest = self.taken + self.rest, b""

    def pause_reading(self) -> None:
        self.paused = True
        self.moves.append("pause")

    def resume_reading(self) -> None:
        self.paused = False
        self.moves.append("resume")

    def close_writing(self) -> None: ...

    def messages(self) -> list[Json]:
        """What was written, each a whole valid line; taken."""
        taken, self.taken = self.taken, b""
        assert not taken or taken.endswith(b"\n")
        return [json.loads(part.decode(), parse_constant=refuse) for part in taken.split(b"\n")[:-1]]


class World:
    def __init__(self, *, unattended: bool = False, **settings: Any) -> None:
        settings.setdefault("health", HealthSettings(after_idle=0))
        self.reports: list[RelayReport] = []
        self.logs: list[Logged] = []
        self.gone = 0
        self.client = FakeWire()
        self.wires: dict[int, FakeWire] = {}
        self.relay = Relay(own_tools=(KEEP,), settings=RelaySettings(**settings), own_prefix="keep/")
        self.ends = RelayWires(
            self.relay, log=self.logs.append, clock=lambda: anyio.current_time(), max_message=100_000
        )
        self.actor = RelayActor(self.ends, report=self.reports.append, client_gone=self._client_gone)
        if not unattended:
            self.ends.attend(self.actor)
        self.ends.connect_client(self.client)

    def _client_gone(self) -> None:
        self.gone += 1

    def connect(self, generation: int) -> FakeWire:
        wire = self.wires[generation] = FakeWire()
        self.ends.connect(generation, wire)
        return wire

    def attach(self, generation: int) -> FakeWire:
        wire = self.connect(generation)
        self.ends.order(ChildAttached(generation))
        return wire

    def say(self, *messages: Json) -> None:
        self.ends.client_data(b"".join(map(line, messages)))

    def child(self, generation: int, *messages: Json) -> None:
        self.ends.child_data(generation, b"".join(map(line, messages)))

    def exit(self, generation: int) -> None:
        self.ends.order(ChildExited(generation, KILLED, self.wires[generation].accepted))

    def opened(self) -> "World":
        self.attach(1)
        self.say(initialize())
        self.child(1, result(0, initialized()))
        self.say(notice("notifications/initialized"))
        self.say(request("list", "tools/list"))
        self.child(1, result("list", {"tools": [{"name": "echo", "inputSchema": {}}]}))
        self.client.messages()
        self.wires[1].messages()
        return self


@asynccontextmanager
async def running(world: World, handler: Callable[[Raw, Progress], Any]) -> AsyncGenerator[TaskGroup]:
    def on_bug(_name: str, _error: Exception) -> str:
        return "the log"

    tools = Toolbox((KEEP, handler), on_bug=on_bug)
    with anyio.fail_after(1000 if isinstance(current_clock(), MockClock) else 10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(world.actor.run, tools)
            yield tasks
            tasks.cancel_scope.cancel()


async def done(_arguments: Raw, _progress: Progress) -> ToolResult:
    return ToolResult(Raw(b'{"status":"success"}'))


def current_clock() -> object:
    return trio.lowlevel.current_clock() if sniffio.current_async_library() == "trio" else None


async def until(condition: Callable[[], object]) -> None:
    """Wait for it; on a fake clock by letting its seconds pass."""
    while not condition():
        await (anyio.sleep(1) if isinstance(current_clock(), MockClock) else checkpoint())


# Bytes


async def test_an_unchanged_message_goes_on_as_the_bytes_it_came_as() -> None:
    world = World().opened()
    odd = b'{ "id":1.5e0 , "jsonrpc":"2.0", "method":"x"}\n'
    world.ends.client_data(odd)
    assert world.client.messages()[0]["error"]["code"] == -32600
    odd = '{ "method" : "custom",\t"id":"é\u2028","jsonrpc":"2.0","extra":[1, 2] }\n'.encode()
    for at in range(len(odd)):
        world.ends.client_data(odd[at : at + 1])
    assert world.wires[1].taken == odd


async def test_the_end_of_the_clients_stream_is_told_after_its_last_line() -> None:
    world = World().opened()
    world.ends.client_data(line(call(1))[:-1])
    assert world.wires[1].messages() == []
    world.ends.client_eof()
    assert world.wires[1].messages() == [call(1)] and world.gone == 1


async def test_a_client_that_broke_off_is_told_too() -> None:
    world = World()
    world.ends.client_broken()
    assert world.gone == 1


async def test_what_a_child_writes_before_it_is_announced_is_not_lost() -> None:
    world = World()
    world.say(initialize())
    wire = world.connect(1)
    world.child(1, request(7, "ping"))
    assert (wire.messages(), world.client.messages()) == ([], [])
    world.ends.order(ChildAttached(1))
    assert wire.messages() == [initialize(), result(7)]


async def test_a_child_that_floods_before_it_is_announced_is_not_read_on() -> None:
    world = World()
    wire = world.connect(1)
    log = notice("notifications/message", {"level": "info", "data": "x" * 1000})
    for _ in range(2 * HIGH_WATER // 1000):
        if not wire.paused:
            world.child(1, log)
    world.ends.order(ChildAttached(1))
    assert wire.moves == ["pause", "resume"]
    assert HIGH_WATER < len(world.client.taken) < HIGH_WATER + 3000


async def test_what_a_dead_child_wrote_last_is_read_before_its_end_counts() -> None:
    world = World().opened()
    world.say(call(1))
    world.ends.child_data(1, line(result(1))[:-1])
    world.exit(1)
    assert world.client.messages() == [result(1)]
    world.child(1, result(1))
    world.ends.child_eof(1)
    assert world.client.messages() == []


async def test_what_comes_before_the_attendant_is_kept_for_it_in_order() -> None:
    world = World(unattended=True)
    wire = world.attach(1)
    world.say(initialize())
    world.child(1, result(0, initialized()))
    world.say(notice("notifications/initialized"), call(1, name=KEEP.name))
    world.ends.client_eof()
    assert [message.get("id") for message in world.client.messages()] == [0]
    wire.messages()
    assert (world.reports, world.gone) == ([], 0)
    world.ends.attend(world.actor)
    assert (world.reports, world.gone) == ([ChildReady(1)], 1)
    async with running(world, done):
        await until(lambda: world.client.taken)
    assert [message["id"] for message in world.client.messages()] == [1]


async def test_a_child_attached_before_its_actor_was_there_is_not_opened_twice() -> None:
    world = World().opened()
    world.ends.order(ChildAttached(1))
    assert (world.wires[1].messages(), world.reports) == ([], [ChildReady(1)])


# Back pressure


async def test_children_are_not_read_while_the_client_does_not_take_answers_nor_at_last_the_client() -> None:
    world = World().opened()
    world.client.room = 0
    log = notice("notifications/message", {"level": "info", "data": "x" * 50_000})
    for _ in range(2 * HIGH_WATER // 50_000):
        if not world.wires[1].paused:
            world.child(1, log)
    assert HIGH_WATER < world.client.queued < HIGH_WATER + 60_000
    assert not world.client.paused, "its end would not be seen"
    assert world.attach(2).paused, "a child that comes later is not read either"
    for number in range(2 * FLOODED // 50_000):
        if not world.client.paused:
            world.say({"jsonrpc": "2.0", "id": f"{number:050000}", "method": "ping"})
    assert FLOODED < world.client.queued < FLOODED + 60_000
    world.client.drain()
    world.ends.client_writable()
    assert not (world.client.paused or world.wires[1].paused or world.wires[2].paused)


async def test_the_client_is_not_read_while_its_child_does_not_take_requests() -> None:
    world = World().opened()
    world.wires[1].room = 0
    big = call(0, "echo", filler="x" * 50_000)
    count = 0
    while not world.client.paused and count < 2 * BACKLOG // 50_000:
        count += 1
        world.say({**big, "id": count})
    assert BACKLOG < world.wires[1].queued < BACKLOG + 60_000
    assert not world.wires[1].paused, "its answers are still read"
    world.wires[1].drain()
    world.ends.child_writable(1)
    assert not world.client.paused


async def test_the_client_is_read_again_when_the_slow_child_is_gone() -> None:
    world = World().opened()
    world.wires[1].room = 0
    world.say(call(1, "echo", filler="x" * (BACKLOG + 1)))
    assert world.client.paused
    world.exit(1)
    assert not world.client.paused


async def test_the_client_is_read_again_when_another_child_takes_the_place_of_the_slow_one() -> None:
    world = World().opened()
    world.wires[1].room = 0
    world.say(call(1, "echo", filler="x" * (BACKLOG + 1)))
    opening = world.attach(2).messages()[0]
    assert world.client.paused
    world.child(2, result(opening["id"], initialized()))
    world.ends.order(ChildPromoted(2))
    assert not world.client.paused


async def hold_too_much(world: World) -> None:
    world.exit(1)
    big = call(0, "echo", filler="x" * (HELD_LIMIT // 4))
    for id_ in range(5):
        world.say({**big, "id": id_})
    assert world.client.paused


async def test_the_client_is_read_again_when_what_was_held_has_gone_to_the_next_child() -> None:
    world = World().opened()
    await hold_too_much(world)
    world.attach(2)
    opening = world.wires[2].messages()[0]
    assert world.client.paused
    world.child(2, result(opening["id"], initialized()))
    assert not world.client.paused


@JUMPING
async def test_the_client_is_read_again_when_what_was_held_has_expired() -> None:
    world = World(hold=30.0).opened()
    async with running(world, done):
        await hold_too_much(world)
        await until(lambda: not world.client.paused)
    assert [message["id"] for message in world.client.messages()] == [0, 1, 2, 3, 4]


# Time


@JUMPING
async def test_a_held_request_is_answered_at_the_hold_limit_and_not_before() -> None:
    world = World(hold=30.0).opened()
    async with running(world, done):
        world.exit(1)
        start = anyio.current_time()
        world.say(call(1))
        await until(lambda: world.client.taken)
        assert anyio.current_time() - start == pytest.approx(30, abs=1)
    assert world.client.messages()[0]["error"]["data"]["reason"] == "child_unavailable"


@JUMPING
async def test_an_idle_child_that_answers_nothing_is_reported_wedged_in_time() -> None:
    world = World(health=HealthSettings(after_idle=30, timeout=10)).opened()
    async with running(world, done):
        start = anyio.current_time()
        world.say(notice("notifications/cancelled"), request(1, "prompts/list"))
        world.child(1, result(1, {"prompts": []}))
        await until(lambda: any(isinstance(report, ChildWedged) for report in world.reports))
        assert anyio.current_time() - start == pytest.approx(50, abs=1)
    asked = [message["method"] for message in world.wires[1].messages()]
    assert asked == ["prompts/list", "ping", "tools/list"]


@JUMPING
async def test_after_an_idle_child_has_answered_nothing_is_due_any_more() -> None:
    world = World(health=HealthSettings(after_idle=30, timeout=10)).opened()
    async with running(world, done):
        world.say(request(1, "prompts/list"))
        world.child(1, result(1, {"prompts": []}))
        await until(lambda: b"ping" in world.wires[1].taken)
        [*_, ping] = world.wires[1].messages()
        assert world.ends.armed is not None
        world.child(1, result(ping["id"]))
        assert world.ends.armed is None
        asked = anyio.current_time()
        await until(lambda: anyio.current_time() > asked + 100)
    assert world.wires[1].messages() == []


@JUMPING
async def test_a_child_that_closes_a_pipe_and_lives_on_is_reported_after_a_grace() -> None:
    world = World().opened()
    async with running(world, done):
        world.reports.clear()
        world.ends.child_eof(1)
        await until(lambda: world.reports)
    assert world.reports == [ChildWedged(1, "it closed its stdout and lives on")]


@JUMPING
async def test_a_child_that_ends_after_closing_its_pipes_is_not_reported() -> None:
    world = World().opened()
    async with running(world, done):
        world.reports.clear()
        world.ends.child_eof(1)
        world.ends.child_broken(1)
        world.exit(1)
        await anyio.sleep(5)
    assert world.reports == []


# Our own tools


async def test_our_own_tool_is_served_beside_the_relay_and_its_progress_told() -> None:
    world = World().opened()
    gate = anyio.Event()

    async def slow(arguments: Raw, progress: Progress) -> ToolResult:
        progress(1, 2, "half")
        await gate.wait()
        return ToolResult(Raw(b'{"got":%s}' % bytes(arguments)))

    async with running(world, slow):
        world.say(call(1, "mcpkeep", arguments={"a": 1}, _meta={"progressToken": "p"}))
        await until(lambda: world.client.taken)
        told = {"progressToken": "p", "progress": 1, "total": 2, "message": "half"}
        assert world.client.messages() == [notice("notifications/progress", told)]
        world.say(call(2))
        assert world.wires[1].messages() == [call(2)], "the relay goes on meanwhile"
        gate.set()
        await until(lambda: world.client.taken)
    answer = world.client.messages()[0]
    assert (answer["id"], answer["result"]["structuredContent"]) == (1, {"got": {"a": 1}})
    assert answer["result"]["content"] == [{"type": "text", "text": '{"got":{"a":1}}'}]


async def test_our_own_tool_works_while_no_child_is_there() -> None:
    world = World()
    async with running(world, done):
        world.say(call(1, "mcpkeep"))
        await until(lambda: world.client.taken)
    assert world.client.messages()[0]["result"]["isError"] is False


async def test_a_cancelled_call_of_our_own_tool_ends_and_is_answered_by_nobody() -> None:
    world = World().opened()
    ended: list[str] = []

    async def forever(_arguments: Raw, progress: Progress) -> ToolResult:
        try:
            progress(0, None, "begun")
            await anyio.sleep_forever()
        finally:
            ended.append("ended")
        raise AssertionError

    async with running(world, forever):
        world.say(call(1, "mcpkeep", _meta={"progressToken": 1}))
        await until(lambda: world.client.taken)
        world.client.messages()
        world.say(notice("notifications/cancelled", {"requestId": 1}))
        await until(lambda: ended)
    assert world.client.messages() == [] and world.relay.calls.table == {}


async def test_a_call_that_is_cancelled_before_its_tool_began_does_nothing() -> None:
    world = World().opened()
    begun: list[bytes] = []

    async def note(arguments: Raw, _progress: Progress) -> ToolResult:
        begun.append(bytes(arguments))
        return ToolResult(Raw(b"{}"))

    async with running(world, note):
        world.say(
            call(1, "mcpkeep", arguments={"n": 1}),
            notice("notifications/cancelled", {"requestId": 1}),
            call(1, "mcpkeep", arguments={"n": 2}),
        )
        await until(lambda: world.client.taken)
    assert begun == [b'{"n":2}']
    assert len(world.client.messages()) == 1


async def test_an_error_in_a_tool_becomes_a_refusal_that_names_the_log() -> None:
    world = World().opened()

    async def broken(_arguments: Raw, _progress: Progress) -> ToolResult:
        raise ZeroDivisionError("secret")

    async with running(world, broken):
        world.say(call(1, "mcpkeep"))
        await until(lambda: world.client.taken)
    answer = world.client.messages()[0]["result"]
    assert answer["isError"] is True
    assert answer["structuredContent"] == {
        "status": "error",
        "action": None,
        "error": "mcpkeep failed at this call of 'mcpkeep': ZeroDivisionError",
        "error_type": "RuntimeError",
        "remediation": "This is a bug in mcpkeep; the details are in the log.",
    }


async def test_a_notice_reaches_a_client_that_listens() -> None:
    world = World().opened()
    world.ends.notice("warning", "look out")
    assert world.client.messages() == [
        notice("notifications/message", {"level": "warning", "logger": "mcpkeep", "data": "look out"})
    ]


# Garbage

NASTY: list[bytes] = [
    b"\n",
    b"\r\n",
    b"   \n",
    b"{}\n",
    b"[]\n",
    b"null\n",
    b"7\n",
    b'"x"\n',
    b"\xff\xfe\n",
    b"\xef\xbb\xbf" + line(result(1)),
    b"log: " + line(result(1)),
    b"log: { " + line(notice("x")),
    line(result(1))[:-1] * 2 + b"\n",
    b'{"jsonrpc":"2.0","id":1,"result":NaN}\n',
    b'{"jsonrpc":"2.0","id":1,"result":{"x":"\\ud800"}}\n',
    b'{"jsonrpc":"2.0","id":1,"result":{"x":1e999}}\n',
    b'{"jsonrpc":"2.0","id":1,"result":null}\n',
    b'{"jsonrpc":"2.0","id":1,"result":[],"error":null}\n',
    b'{"jsonrpc":"2.0","id":1,"error":7}\n',
    b'{"jsonrpc":"2.0","id":null,"error":{}}\n',
    b'{"jsonrpc":"2.0","id":1.5,"result":{}}\n',
    b'{"jsonrpc":"2.0","id":{},"result":{}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"m","result":{}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"m"}\n',
    b'{"jsonrpc":"2.0","id":"k","method":"tools/call","params":7}\n',
    b'{"jsonrpc":"2.0","id":"k","method":"tools/call","params":{"name":7}}\n',
    b'{"jsonrpc":"2.0","id":2,"method":"initialize","params":[]}\n',
    b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":1e999}}\n',
    b'{"jsonrpc":"2.0","id":2,"result":{"tools":[7,{"name":1},{"name":"a","uri":[]}],"nextCursor":{}}}\n',
    b'{"jsonrpc":"2.0","id":2,"result":{"requestState":7,"task":"x"}}\n',
    b'{"jsonrpc":"2.0","id":"keep/1","result":{"protocolVersion":1e999}}\n',
    b'{"jsonrpc":"2.0","id":"keep/2","result":{"tools":{}}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":[1]}}\n',
    b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":[]}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{"_meta":{"progressToken":3}}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"x","id":2,"params":{"_meta":null}}\n',
    b"[" * 600 + b"]" * 600 + b"\n",
    b"[" * 300 + b"1" + b"]" * 300 + b"\n",
    b'[[{"jsonrpc":"2.0","id":1,"result":{}}],{"jsonrpc":"2.0","id":1,"result":{}}]\n',
    b'{"a":' * 600 + b"1" + b"}" * 600 + b"\n",
    b'{"jsonrpc":"2.0","id":3,"result":{"x":"' + b"y" * 100_000 + b'"}}\n',
    b'{"jsonrpc":"2.0","method":"m","params":"' + b"[" * 110_000 + b'"}\n',
    b"x" * 100_001 + b"\n",
    line(call(4)),
    line(call(1, "mcpkeep")),
    line(request(5, "subscriptions/listen", {"notifications": 7})),
    line(initialize(9)),
    line(result(9, initialized())),
    line(notice("notifications/initialized")),
    line(request(6, "tools/list")),
    line(result(6, {"tools": [{"name": "mcpkeep"}]})),
]


@pytest.mark.parametrize("seed", range(40))
async def test_garbage_in_both_directions_leaves_the_client_with_valid_lines(seed: int) -> None:
    """Whatever arrives, in whatever pieces: nothing raises, and each line to the client is one message."""
    chance = random.Random(seed)
    world = World()
    generation = 1
    world.attach(generation)
    for _ in range(60):
        data = b"".join(chance.choice(NASTY) for _ in range(chance.randint(1, 4)))
        if chance.random() < 0.3:
            cut = chance.randrange(len(data))
            data = data[:cut] + bytes(chance.randrange(256) for _ in range(3)) + data[cut + 2 :]
        from_client = chance.random() < 0.5
        while data:
            size = chance.choice([1, 2, 7, 100, 65536])
            size = size if len(data) < 5000 else 65536
            if from_client:
                world.ends.client_data(data[:size])
            else:
                world.ends.child_data(generation, data[:size])
            data = data[size:]
        if chance.random() < 0.1:
            world.exit(generation)
            generation += 1
            world.attach(generation)
    world.ends.client_eof()
    for message in world.client.messages():
        assert isinstance(message, dict) and message["jsonrpc"] == "2.0"
        assert "method" in message or "result" in message or "error" in message
    for wire in world.wires.values():
        for message in wire.messages():
            assert message["jsonrpc"] == "2.0"
    assert world.relay.calls.held_bytes >= 0


async def test_a_flood_of_lines_too_long_to_read_an_id_from_is_reported_once() -> None:
    world = World().opened()
    world.reports.clear()
    for _ in range(5):
        world.ends.child_data(1, b'{"jsonrpc":"2.0","result":"' + b"x" * 100_000 + b'"}\n')
    assert [type(report) for report in world.reports] == [ChildWedged]


async def test_ready_is_reported() -> None:
    assert World().opened().reports == [ChildReady(1)]


# Requests of our own


async def asked(wire: FakeWire) -> Json:
    """The request that was written there."""
    await until(lambda: wire.taken)
    [message] = wire.messages()
    return message


async def ask(world: World, answers: list[object], within: float = 5, **options: Any) -> None:
    try:
        answers.append(
            bytes(await world.actor.request("tools/list", {"cursor": "c"}, within=within, **options))
        )
    except RequestFailed as error:
        answers.append(str(error))


async def test_a_request_of_ours_is_answered_to_us_and_the_client_hears_nothing() -> None:
    world = World().opened()
    answers: list[object] = []
    async with running(world, done) as tasks:
        tasks.start_soon(ask, world, answers)
        message = await asked(world.wires[1])
        assert (message["method"], message["params"]) == ("tools/list", {"cursor": "c"})
        assert not message["id"].isdigit()
        world.child(1, result(message["id"], {"tools": []}))
        world.child(1, result(message["id"], {"tools": [1]}))
        await until(lambda: answers)
    assert answers == [b'{"tools":[]}']
    assert world.client.messages() == []


def answer_no(world: World, id_: str) -> None:
    world.child(1, failure(id_))


def die(world: World, id_: str) -> None:
    world.exit(1)


def be_frozen(world: World, id_: str) -> None:
    world.ends.order(ChildFrozen(1, 0))


def answer_too_much(world: World, id_: str) -> None:
    world.child(1, {**result(id_), "result": "x" * 200_000})


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (answer_no, '{"code":-32601,"message":"no"}'),
        (die, "the MCP server was killed by SIGKILL"),
        (be_frozen, "the MCP server was replaced"),
        (answer_too_much, "the server answered with"),
    ],
)
async def test_a_request_of_ours_that_gets_no_result_fails_with_the_reason(
    end: Callable[[World, str], None], said: str
) -> None:
    world = World().opened()
    answers: list[object] = []
    async with running(world, done) as tasks:
        tasks.start_soon(ask, world, answers)
        message = await asked(world.wires[1])
        end(world, message["id"])
        await until(lambda: answers)
    [answer] = answers
    assert isinstance(answer, str) and answer.startswith(f"tools/list failed: {said}")


async def test_a_prepared_child_is_asked_beside_the_serving_one() -> None:
    world = World().opened()
    answers: list[object] = []
    async with running(world, done) as tasks:
        world.connect(2)
        world.ends.order(ChildAttached(2, beside=True))
        opening = await asked(world.wires[2])
        await ask(world, answers, generation=2)
        assert answers == ["tools/list failed: no MCP server is up that has a session with a client"]
        world.child(2, result(opening["id"], initialized()))
        world.wires[2].messages()
        tasks.start_soon(lambda: ask(world, answers, generation=2))
        message = await asked(world.wires[2])
        world.child(2, result(message["id"]))
        await until(lambda: len(answers) == 2)
    assert answers[1] == b"{}"
    assert (world.client.messages(), world.wires[1].messages()) == ([], [])


@JUMPING
async def test_a_request_of_ours_that_takes_too_long_is_cancelled() -> None:
    world = World().opened()
    answers: list[object] = []
    async with running(world, done) as tasks:
        tasks.start_soon(ask, world, answers)
        await until(lambda: answers)
        request_, cancelled = world.wires[1].messages()
        assert cancelled == notice("notifications/cancelled", {"requestId": request_["id"]})
        world.child(1, result(request_["id"]))
    assert answers == ["tools/list failed: there was no answer within 5 s"]


async def test_a_client_that_can_is_asked_and_its_answer_reaches_no_child() -> None:
    world = World().opened()
    answers: list[object] = []

    async def ask_client() -> None:
        answers.append(bytes(await world.actor.ask_client("roots/list", {}, within=5)))

    async with running(world, done) as tasks:
        tasks.start_soon(ask_client)
        message = await asked(world.client)
        assert message == {**request(message["id"], "roots/list"), "params": {}}
        world.say(result(message["id"], {"roots": []}))
        await until(lambda: answers)
        assert world.wires[1].messages() == []
        assert (world.actor.client_can("roots"), world.actor.client_can("elicitation")) == (True, False)
        with pytest.raises(RequestFailed, match="the client takes no such requests"):
            await world.actor.ask_client("elicitation/create", {}, within=5)
    assert answers == [b'{"roots":[]}']


async def test_a_modern_client_is_asked_nothing() -> None:
    world = World()
    world.attach(1)
    world.say(modern(0, "server/discover"))
    world.child(1, result(0, discovered()))
    assert world.actor.is_attended
    assert not world.actor.client_can("elicitation")


@JUMPING
async def test_a_child_that_works_for_us_is_not_judged_by_its_silence() -> None:
    world = World(health=HealthSettings(after_idle=30, timeout=10)).opened()
    answers: list[object] = []
    world.say(call(5))
    world.child(1, result(5))
    async with running(world, done) as tasks:
        tasks.start_soon(ask, world, answers, 200)
        await until(lambda: answers)
    assert [type(report) for report in world.reports] == [ChildReady]
