"""What may take the lane and what may not; that it does nothing of its own, machine and scripts show."""

from typing import Any

import pytest

from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.framing import Frame, Oversized
from mcpkeep.protocol.relay.mcp import Loss
from tests.protocol.relay.relay_script import Script, call, failure, line, notice, request, result, tool


def ready() -> Script:
    script = Script.legacy()
    script.client(request("list", "tools/list"))
    script.child(1, result("list", {"tools": [tool("echo")]}))
    return script


def passed(script: Script, *frames: Frame) -> list[bytes]:
    return script.relay.lane.calls(frames, 0.0)


def test_plain_calls_pass_up_to_the_first_frame_that_is_not_one() -> None:
    script = ready()
    first, second, other = line(call(1)), line(call(2)), line(request(3, "ping"))
    assert passed(script, first, second, other, line(call(4))) == [first, second]
    assert list(script.relay.calls.table) == [1, 2]


def test_a_passed_call_stands_in_the_table_as_the_relay_itself_would_note_it() -> None:
    def table(script: Script) -> dict[object, Call]:
        return dict(script.relay.calls.table)

    lane, relay = ready(), ready()
    frame = line(call(1, _meta={"progressToken": 7}))
    assert passed(lane, frame) == [frame]
    relay.relay.lane.link = None
    relay.relay.from_client([frame], 0.0)
    assert table(lane) == table(relay) and table(lane)[1].loss is Loss.CALL


NOT_PLAIN: dict[str, Any] = {
    "a tool that is not known yet": call(1, "unheard"),
    "one of our own tools": call(1, "mcpkeep"),
    "an id that is a string": call("a"),
    "a task": call(1, task={"ttl": 1}),
    "a request state": call(1, requestState="s"),
    "the first request of a modern client": call(
        1, _meta={"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    ),
    "another method": request(1, "resources/read", {"uri": "a://b"}),
    "a notification": notice("tools/call", {"name": "echo"}),
    "garbage": b"{\n",
    "invalid UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\xff"}}\n',
}


@pytest.mark.parametrize("frame", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_no_plain_call_waits_for_the_relay(frame: Any) -> None:
    assert passed(ready(), line(frame)) == []


def test_an_oversized_line_and_a_long_one_wait_for_the_relay() -> None:
    long = line(call(1, arguments={"text": "x" * 40_000}))
    assert passed(ready(), Oversized(99, 1, True)) == passed(ready(), long) == []


def test_an_id_in_use_waits_for_the_relay() -> None:
    script = ready()
    assert passed(script, line(call(1)), line(call(1))) == [line(call(1))]


@pytest.mark.parametrize("state", ["before the handshake", "holding", "overlap", "nobody serves"])
def test_nothing_passes_while_more_than_one_child_or_none_is_there(state: str) -> None:
    script = Script() if state == "before the handshake" else ready()
    match state:
        case "holding":
            script.hold()
        case "overlap":
            script.attach(2)
        case "nobody serves":
            script.exit(1)
        case _:
            script.attach(1)
    assert passed(script, line(call(1))) == []


def test_an_answer_passes_once() -> None:
    script = ready()
    script.client(call(1))
    answer = line(result(1, {"content": []}))
    assert script.relay.lane.answers(1, [answer, answer], 0.0) == [answer]
    assert script.relay.calls.table == {}


@pytest.mark.parametrize(
    "frame",
    [
        failure(1),
        result(2, {}),
        result(1, {"requestState": "s"}),
        result(1, {"task": {"taskId": "t"}}),
        request(1, "roots/list"),
        notice("notifications/message"),
    ],
)
def test_what_is_no_plain_answer_waits_for_the_relay(frame: Any) -> None:
    script = ready()
    script.client(call(1))
    assert script.relay.lane.answers(1, [line(frame)], 0.0) == []


def test_the_answer_of_another_child_does_not_pass() -> None:
    script = ready()
    script.client(call(1))
    assert script.relay.lane.answers(2, [line(result(1, {}))], 0.0) == []
