"""What one client and one child see of the relay: ids, capabilities, bad lines, our own tools, notices."""

import msgspec
import pytest
from msgspec import Raw

from mcpkeep.protocol.relay.framing import Oversized
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.opening import has_envelope
from mcpkeep.protocol.relay.output import ToolCancelled
from mcpkeep.protocol.relay.tools import ToolCall, ToolCalled, ToolResult
from mcpkeep.protocol.switch import ChildRefused, ChildWedged
from tests.protocol.relay.relay_script import (
    ENVELOPE,
    FULL,
    PREFIX,
    Event,
    Json,
    Script,
    brief,
    call,
    effects,
    failure,
    initialize,
    initialized,
    line,
    lost,
    modern,
    notice,
    only,
    request,
    result,
    to_child,
    to_client,
    told,
    tool,
)


def oversized(script: Script, size: int, id_: int | str | None, *, is_request: bool = False) -> list[Event]:
    script.relay.from_child(1, [Oversized(size, id_, is_request)], script.now)
    return script.take()


# Ids


@pytest.mark.parametrize("id_", [0, -1, 10**25, "", "0", "a b", "é"])
def test_the_clients_ids_reach_the_child_and_come_back_as_they_are(id_: int | str) -> None:
    script = Script.legacy().listed([tool("echo")])
    assert script.client(call(id_, _meta={"progressToken": id_})) == [
        ("child 1", call(id_, _meta={"progressToken": id_}))
    ]
    progress = notice("notifications/progress", {"progressToken": id_, "progress": 1})
    assert script.child(1, progress, result(id_)) == [("client", progress), ("client", result(id_))]


def test_a_number_and_its_text_are_two_ids() -> None:
    script = Script.legacy().listed([tool("echo")])
    script.client(call(1), call("1"))
    assert script.child(1, result("1", {"a": 1})) == [("client", result("1", {"a": 1}))]
    assert script.child(1, result("1")) == []
    assert script.child(1, result(1)) == [("client", result(1))]


@pytest.mark.parametrize("id_", [1, f"{PREFIX}1"])
def test_an_id_in_use_is_refused_and_its_first_request_lives_on(id_: int | str) -> None:
    script = Script.legacy().listed([tool("echo")])
    script.client(call(1))
    refusal = told(script.client(call(id_)))
    assert (refusal["id"], refusal["error"]["code"]) == (id_, -32600)
    assert script.child(1, result(1)) == [("client", result(1))]


def test_pings_are_answered_by_us_in_both_directions() -> None:
    script = Script()
    assert script.client(request(1, "ping")) == [("client", result(1))]
    script.attach(1)
    assert script.child(1, request(1, "ping")) == [("child 1", result(1))]


def test_our_own_ids_are_no_numbers_and_their_answers_stay_with_us() -> None:
    script = Script.legacy()
    script.client(call(1))
    [own] = script.own[1]
    assert own["method"] == "tools/list" and not own["id"].isdigit()
    assert script.child(1, result(own["id"], {"tools": []}), result(own["id"])) == []


# Capabilities


@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ({}, {"tools": {"listChanged": True}, "logging": {}}),
        ({"tools": {"listChanged": False}}, {"tools": {"listChanged": True}, "logging": {}}),
        (
            {"prompts": {}, "resources": {}, "experimental": {"x": 1}},
            {
                "prompts": {"listChanged": True},
                "resources": {"listChanged": True},
                "experimental": {"x": 1},
                "tools": {"listChanged": True},
                "logging": {},
            },
        ),
    ],
)
def test_what_is_announced_is_what_a_replacement_needs_and_nothing_invented(
    capabilities: Json, told: Json
) -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    [answer] = to_client(script.child(1, result(0, initialized(capabilities))))
    assert answer["result"] == {**initialized(), "capabilities": told}


def test_a_modern_answer_is_uncached_and_gets_no_logging() -> None:
    script = Script()
    script.attach(1)
    script.client(modern(0, "server/discover"))
    [answer] = to_client(script.child(1, result(0, {"capabilities": {}, "ttlMs": 5000})))
    assert answer["result"] == {
        "capabilities": {"tools": {"listChanged": True}},
        "ttlMs": 0,
        "cacheScope": "private",
    }


def test_a_child_without_tools_is_not_asked_for_them() -> None:
    script = Script.legacy({})
    [answer] = to_client(script.client(request(1, "tools/list")))
    assert [t["name"] for t in answer["result"]["tools"]] == ["mcpkeep"]
    script.client(call(2))
    assert script.own == {}


def test_a_child_without_logging_is_not_asked_for_it() -> None:
    script = Script.legacy({})
    assert script.client(request(1, "logging/setLevel", {"level": "error"})) == [("client", result(1))]
    script.relay.notice("warning", "w")
    assert script.take() == []
    script.relay.notice("error", "e")
    assert len(to_client(script.take())) == 1


def test_an_unknown_tool_makes_us_learn_the_tools_once_and_ahead_of_the_call() -> None:
    script = Script.legacy()
    assert to_child(script.client(call(1), call(2)), 1) == [{"own": "tools/list"}, call(1), call(2)]
    script.answer(1, "tools/list", {"tools": [tool("echo", readOnlyHint=True)]})
    assert to_child(script.client(call(3), call(4, "unknown")), 1) == [call(3), call(4, "unknown")]
    assert script.relay.status().server_tools == ("echo",)


def test_a_modern_client_that_opens_by_a_call_makes_us_learn_the_tools_too() -> None:
    script = Script()
    script.attach(1)
    first = modern(1, "tools/call", {"name": "echo"})
    assert to_child(script.client(first), 1) == [{"own": "tools/list", "_meta": ENVELOPE}, first]
    script.answer(1, "tools/list", {"tools": [tool("echo", readOnlyHint=True)]})
    assert to_client(script.exit(1)) == []
    assert script.relay.status().held == 1


def test_no_request_of_ours_goes_out_before_the_client_has_said_initialized() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    script.child(1, result(0, initialized()))
    assert to_child(script.client(call(1)), 1) == [call(1)]


def test_a_harmless_call_of_a_client_that_never_lists_goes_out_again_after_a_crash() -> None:
    script = Script.legacy()
    script.client(call(1))
    script.answer(1, "tools/list", {"tools": [tool("echo", readOnlyHint=True)]})
    assert to_client(script.exit(1)) == []
    assert to_child(script.opened(2), 2)[-1] == call(1)


def test_a_first_call_that_waited_for_a_child_goes_behind_our_listing_too() -> None:
    script = Script.legacy()
    script.exit(1)
    script.client(call(1))
    assert to_child(script.opened(2), 2)[-2:] == [{"own": "tools/list"}, call(1)]


# Bad lines of the client


@pytest.mark.parametrize(
    ("bad", "id_", "code"),
    [
        (b"hello\n", None, -32700),
        (b"\xff\n", None, -32700),
        (b'{"jsonrpc":"2.0","id":5,"method":"m"\n', 5, -32600),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","x":NaN}\n', 5, -32600),
        (b'{"jsonrpc":"2.0","id":"a","method":7}\n', "a", -32600),
        (b'{"jsonrpc":"1.0","id":5,"method":"m"}\n', 5, -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}\n', None, -32600),
        (b"[]\n", None, -32600),
        (b"[1]\n", None, -32700),
        (b"[[1]]\n", None, -32600),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","x":' + b"[" * 600 + b"]" * 600 + b"}\n", 5, -32600),
        (b'{"jsonrpc":"2.0","id":5,"method":"\xc3("}\n', 5, -32600),
        (b'{"jsonrpc":"2.0","id":"\xc3(","method":"m"}\n', None, -32700),
    ],
)
def test_a_bad_line_of_the_client_is_answered_and_goes_nowhere(
    bad: bytes, id_: int | str | None, code: int
) -> None:
    to, answer = only(Script.legacy().client(bad))
    assert to == "client" and (answer["id"], answer["error"]["code"]) == (id_, code)


@pytest.mark.parametrize("id_", ["7.0", "1.5", "-1E2", "1e400", "null"])
def test_a_number_that_is_no_integer_is_refused_as_id_under_that_very_id(id_: str) -> None:
    relay = Script.legacy().relay
    relay.from_client([b'{"method":"m", "id" : %s ,"jsonrpc":"2.0"}\n' % id_.encode()], 0)
    text = f"an id must be a string or an integer, and this one is {id_}"
    error = f'{{"code":-32600,"message":"{text}"}}'
    assert relay.output.client == [f'{{"jsonrpc":"2.0","id":{id_},"error":{error}}}\n'.encode()]


def test_a_line_too_long_of_the_client_is_answered_with_its_id() -> None:
    script = Script.legacy()
    script.relay.from_client([Oversized(99, "a", True)], 0)
    answer = told(script.take())
    assert (answer["id"], answer["error"]["code"]) == ("a", -32600) and "99 bytes" in answer["error"][
        "message"
    ]


def test_a_batch_of_the_client_is_split_and_each_message_answered() -> None:
    script = Script.legacy().listed([tool("echo")])
    batch = [call(1), notice("notifications/roots/list_changed"), request(2, "ping"), call(3)]
    events = script.client(msgspec.json.encode(batch) + b"\n")
    assert to_child(events, 1) == [call(1), batch[1], call(3)]
    assert to_client(events) == [result(2)]


@pytest.mark.parametrize("depth", [2, 100, 500])
def test_batches_within_batches_are_refused_however_deep(depth: int) -> None:
    bad = b"[" * depth + line(call(1))[:-1] + b"]" * depth + b"\n"
    events = Script.legacy().client(bad)
    assert to_child(events, 1) == [] and len(to_client(events)) == 1
    assert Script.legacy().child(1, bad) == []


# Bad lines of the child


def asked() -> Script:
    script = Script.legacy().listed([tool("echo")])
    script.client(call(5), call(6))
    return script


@pytest.mark.parametrize(
    "noise",
    [
        b"\xff\xfe\n",
        b"Server started\n",
        b"{}\n",
        b"[]\n",
        b'{"id":5,"result":{}}\n',
        b'{"level":"info","id":5}\n',
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":NaN}}\n',
        b'{"jsonrpc":"2.0","id":77,"result":NaN}\n',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}\n',
    ],
)
def test_what_is_no_message_goes_to_the_log_and_never_to_the_client(noise: bytes) -> None:
    script = asked()
    assert script.child(1, noise) == []
    assert len(script.logs) == 1
    assert script.child(1, result(5)) == [("client", result(5))]


def test_the_log_tells_the_length_and_the_first_200_bytes() -> None:
    script = asked()
    script.child(1, b"x" * 1000 + b"\n")
    [log] = script.logs
    assert log.level == "warning" and "1001 bytes" in log.text
    assert "x" * 200 in log.text and "x" * 201 not in log.text


@pytest.mark.parametrize(
    "value",
    [
        b"NaN",
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 600 + b"]" * 600,
        b'{"jsonrpc":"2.0","id":6},NaN',
        b'{"id":6,"method":"m"},NaN',
    ],
)
@pytest.mark.parametrize("space", [b"", b" "])
def test_an_answer_that_cannot_be_carried_is_replaced_by_an_error_for_its_id(
    value: bytes, space: bytes
) -> None:
    script = asked()
    bad = b'{%s"jsonrpc":"2.0","result":{"x":[%s]},"id":5}\n' % (space, value)
    answer = told(script.child(1, bad))
    assert brief(answer) == lost(5, "invalid_response", retryable=False)
    assert script.child(1, bad) == []


@pytest.mark.parametrize(
    "prefix", [b"\xef\xbb\xbf", b"INFO: ", b"loading {model} ", b"\x1b[0m", b'data: {"a":1} ']
)
@pytest.mark.parametrize("space", [b"", b" "])
def test_a_message_behind_a_bom_or_a_printed_text_is_carried(prefix: bytes, space: bytes) -> None:
    script = asked()
    answer = b'{%s"id":5,"jsonrpc":"2.0","result":{"a":{"id":1}}}\n' % space
    assert script.child(1, prefix + answer) == [("client", result(5, {"a": {"id": 1}}))]


def test_a_batch_of_the_child_is_split() -> None:
    script = asked()
    batch = msgspec.json.encode([result(6), 7, request(1, "ping"), result(5)]) + b"\n"
    assert script.child(1, batch) == [
        ("client", result(6)),
        ("client", result(5)),
        ("child 1", result(1)),
    ]


def test_an_answer_above_the_limit_is_replaced_by_an_error_that_tells_its_size() -> None:
    script = asked()
    answer = told(oversized(script, 20_000_000, 5))
    assert brief(answer) == lost(5, "too_large", retryable=False)
    assert "20000000 bytes" in answer["error"]["message"]
    assert oversized(script, 20_000_000, 5) == []


def test_an_answer_above_the_limit_without_an_id_means_a_new_child() -> None:
    [effect] = oversized(asked(), 20_000_000, None)
    assert isinstance(effect, ChildWedged) and effect.generation == 1


def test_a_request_of_the_child_above_the_limit_is_refused_to_it() -> None:
    to, answer = only(oversized(asked(), 20_000_000, 5, is_request=True))
    assert (to, answer["id"], answer["error"]["code"]) == ("child 1", 5, -32600)


def test_a_notification_above_the_limit_is_dropped() -> None:
    assert oversized(asked(), 20_000_000, None, is_request=True) == []


def test_a_candidate_that_opens_with_too_much_is_refused() -> None:
    script = Script.legacy()
    script.attach(2)
    script.relay.from_child(2, [Oversized(20_000_000, script.own[2][0]["id"], False)], 0)
    assert [type(effect) for effect in script.take()] == [ChildRefused]


def test_a_list_too_large_to_compare_is_told_as_changed() -> None:
    script = Script.legacy().listed([tool("a")])
    script.exit(1)
    script.opened(2)
    script.relay.from_child(2, [Oversized(20_000_000, script.own[2][-1]["id"], False)], 0)
    assert to_client(script.take())[0] == notice("notifications/tools/list_changed")


def test_an_opening_answer_of_the_wrong_shape_is_carried() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize(1))
    events = script.child(1, result(1, {"protocolVersion": 7, "capabilities": 7}))
    assert [m["id"] for m in to_client(events)] == [1]


# Our own tools


def test_a_call_of_our_tool_is_ours_and_its_answer_goes_out_once() -> None:
    script = Script.legacy()
    asked = call(1, "mcpkeep", arguments={"action": "status"})
    assert script.client(asked) == [ToolCalled(ToolCall(1, "mcpkeep", Raw(b'{"action":"status"}')))]
    script.relay.answer(1, ToolResult(Raw(b'{"a":1}'), is_error=True))
    expected = {
        "content": [{"type": "text", "text": '{"a":1}'}],
        "structuredContent": {"a": 1},
        "isError": True,
    }
    assert script.take() == [("client", result(1, expected))]
    script.relay.answer(1, ToolResult(Raw(b"{}")))
    assert script.take() == []


def test_a_modern_answer_of_ours_names_its_type_and_the_envelope_is_required() -> None:
    script = Script.modern()
    [effect] = script.client(modern(1, "tools/call", {"name": "mcpkeep"}))
    assert isinstance(effect, ToolCalled) and bytes(effect.call.arguments) == b""
    script.relay.answer(1, ToolResult(Raw(b"{}")))
    assert to_client(script.take())[0]["result"]["resultType"] == "complete"
    version: Json = {"io.modelcontextprotocol/protocolVersion": "x"}
    for meta in ({}, version):
        refusal = told(script.client(call(2, "mcpkeep", _meta=meta)))
        assert (refusal["id"], refusal["error"]["code"]) == (2, -32602)


def test_a_cancelled_call_of_ours_is_told_to_whoever_serves_it() -> None:
    script = Script.legacy()
    script.client(call(1, "mcpkeep", _meta={"progressToken": 1}))
    assert script.client(notice("notifications/cancelled", {"requestId": 1})) == [ToolCancelled(1)]
    script.relay.progress(1, 1, None, "x")
    script.relay.answer(1, ToolResult(Raw(b"{}")))
    assert script.take() == []


def test_progress_of_ours_is_told_where_it_was_asked_for() -> None:
    script = Script.legacy()
    script.client(call(1, "mcpkeep", _meta={"progressToken": "p"}), call(2, "mcpkeep"))
    script.relay.progress(1, 1, 3, "x")
    script.relay.progress(2, 1, 3, "x")
    params = {"progressToken": "p", "progress": 1, "total": 3, "message": "x"}
    assert script.take() == [("client", notice("notifications/progress", params))]


def test_our_tool_is_answered_while_the_child_is_gone_and_outlives_it() -> None:
    script = Script.legacy()
    script.client(call(1, "mcpkeep"))
    assert script.exit(1) == []
    assert len(effects(script.client(call(2, "mcpkeep")))) == 1
    assert script.unavailable() == []
    assert script.opened(2)[-1] and call(1, "mcpkeep") not in to_child(script.take(), 2)
    script.relay.answer(1, ToolResult(Raw(b"{}")))
    assert [m["id"] for m in to_client(script.take())] == [1]


def test_without_overlay_the_childs_tool_of_our_name_is_called() -> None:
    script = Script.legacy(overlay=False).listed([tool("mcpkeep")])
    assert script.client(call(1, "mcpkeep")) == [("child 1", call(1, "mcpkeep"))]


def test_with_overlay_the_hidden_tool_is_told_in_the_log() -> None:
    script = Script.legacy().listed([tool("mcpkeep")])
    assert [log.text for log in script.logs] == ["mcpkeep's tools stand for the server's own mcpkeep"]
    assert len(effects(script.client(call(1, "mcpkeep")))) == 1


# Notices


def test_a_legacy_client_hears_notices_from_info_on_once_it_is_initialized() -> None:
    script = Script()
    script.attach(1)
    script.relay.notice("error", "x")
    script.client(initialize())
    script.child(1, result(0, initialized()))
    script.relay.notice("error", "x")
    assert to_client(script.take()) == []
    script.client(notice("notifications/initialized"))
    for level in ("debug", "info", "emergency"):
        script.relay.notice(level, level)
    assert [m["params"]["level"] for m in to_client(script.take())] == ["info", "emergency"]


@pytest.mark.parametrize("level", ["nonsense", "INFO"])
def test_an_unknown_level_of_the_client_silences_us_and_breaks_nothing(level: str) -> None:
    script = Script.legacy()
    script.client(request(1, "logging/setLevel", {"level": level}))
    script.child(1, result(1))
    script.relay.notice("error", "x")
    assert script.take() == []


def test_a_modern_client_hears_notices_only_while_a_request_asks_for_them() -> None:
    script = Script.modern()
    script.relay.notice("error", "x")
    assert script.take() == []
    level = {"io.modelcontextprotocol/logLevel": "warning"}
    script.client(modern(1, "tools/call", {"name": "echo"}, **level))
    script.relay.notice("info", "x")
    script.relay.notice("warning", "y")
    assert [m["params"]["data"] for m in to_client(script.take())] == ["y"]
    script.child(1, result(1))
    script.relay.notice("warning", "z")
    assert script.take() == []


def test_our_own_modern_requests_carry_the_envelope_and_nothing_of_one_request() -> None:
    script = Script()
    script.attach(1)
    extra: Json = {"io.modelcontextprotocol/logLevel": "debug", "progressToken": 7, "other": 1}
    script.client(modern(0, "server/discover", **extra))
    script.child(1, result(0, {"supportedVersions": [], "capabilities": FULL}))
    script.client(modern(1, "tools/call", {"name": "echo"}))
    assert script.own[1][-1]["params"] == {"_meta": ENVELOPE}


@pytest.mark.parametrize(
    ("params", "whole"),
    [
        ({"_meta": ENVELOPE}, True),
        ({"_meta": {}}, False),
        ({"_meta": 7}, False),
        ({}, False),
        ([], False),
        (None, False),
    ],
)
def test_an_envelope_has_a_version_and_capabilities(params: object, whole: bool) -> None:
    assert has_envelope(Raw(msgspec.json.encode(params))) is whole


# Health


def test_a_quiet_child_is_pinged_in_legacy_and_then_asked_for_a_list() -> None:
    script = Script.legacy(health=HealthSettings(after_idle=30, timeout=10)).listed([])
    assert script.tick(30) == [("child 1", {"own": "ping"})]
    assert script.tick(40) == [("child 1", {"own": "tools/list"})]
    assert effects(script.tick(50)) == [
        ChildWedged(1, "it is idle and answers neither of two different requests")
    ]


def test_a_quiet_modern_child_is_asked_to_discover() -> None:
    script = Script.modern({}, health=HealthSettings(after_idle=30, timeout=10))
    assert script.tick(30) == [("child 1", {"own": "server/discover", "_meta": ENVELOPE})]
    script.answer(1, "server/discover", {})
    assert script.relay.deadline() is None


def test_a_child_at_work_is_not_judged() -> None:
    script = Script.legacy(health=HealthSettings(after_idle=30, timeout=10)).listed([tool("echo")])
    script.client(call(1))
    assert [script.tick(now) for now in (30, 60, 1000)] == [[], [], []]
    script.child(1, failure(1))
    assert script.tick(1030) == [("child 1", {"own": "ping"})]


def test_the_status_counts_what_is_in_flight_and_what_waits() -> None:
    script = Script.legacy()
    script.client(call(1), call(2), call(3, "mcpkeep"))
    status = script.relay.status()
    assert (status.era, status.in_flight, status.held) == ("legacy", 2, 0)
    script.exit(1, unread=script.sent[1])
    assert (script.relay.status().in_flight, script.relay.status().held) == (0, 2)


def test_a_child_whose_answer_the_client_garbled_gets_an_error_instead() -> None:
    script = Script.legacy()
    asked = script.child(1, request(7, "roots/list"))
    minted = to_client(asked)[0]["id"]
    events = script.client(b'{"jsonrpc":"2.0","id":"%s","result":{"roots":[NaN]}}' % minted.encode())
    assert [message["id"] for message in to_child(events, 1)] == [7]
    assert "error" in to_child(events, 1)[0]
    assert [message["error"]["code"] for message in to_client(events)] == [-32600]


def test_a_request_of_the_child_that_cannot_be_carried_is_refused_to_the_child() -> None:
    script = Script.legacy()
    events = script.child(1, b'{"jsonrpc":"2.0","id":7,"method":"roots/list","params":{"a":NaN}}')
    assert to_client(events) == []
    assert [(message["id"], message["error"]["code"]) for message in to_child(events, 1)] == [(7, -32600)]
