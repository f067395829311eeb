"""What a client sees while its server is replaced: the contract's table, row by row, in both eras."""

import pytest

from mcpkeep.protocol.switch import ChildDrained, ChildReady, ChildRefused
from tests.protocol.relay.relay_script import (
    FULL,
    MODERN,
    VERSION,
    Json,
    Script,
    acknowledged,
    brief,
    call,
    discovered,
    effects,
    failure,
    initialize,
    initialized,
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

READY = notice("notifications/initialized")

# The handshake


def test_the_first_child_gets_the_clients_own_handshake_and_nothing_else() -> None:
    script = Script()
    assert script.client(initialize()) == []
    assert script.attach(1) == [("child 1", initialize())]
    told = script.child(1, result(0, initialized()))
    assert effects(told) == [ChildReady(1)]
    capabilities = {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
        "logging": {},
    }
    assert to_client(told) == [result(0, {**initialized(), "capabilities": capabilities})]
    assert script.client(READY) == [("child 1", READY)]


def test_a_next_child_is_opened_with_the_clients_words_and_the_negotiated_version() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    script.child(1, result(0, initialized(version="2024-11-05")))
    script.client(READY)
    script.exit(1)
    params = {**initialize()["params"], "protocolVersion": "2024-11-05"}
    assert script.attach(2) == [("child 2", {"own": "initialize", **params})]
    assert script.client(call(5)) == []
    assert script.answer(2, "initialize", initialized(version="2024-11-05")) == [
        ("child 2", READY),
        ("child 2", {"own": "tools/list"}),
        ("child 2", call(5)),
        ChildReady(2),
    ]


def test_initialized_does_not_go_to_a_next_child_before_the_client_has_sent_it() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    script.child(1, result(0, initialized()))
    script.exit(1)
    script.attach(2)
    assert script.answer(2, "initialize", initialized()) == [ChildReady(2)]
    assert script.client(READY) == [("child 2", READY)]


def test_initialized_that_comes_while_no_child_is_up_reaches_the_next_one() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    script.child(1, result(0, initialized()))
    script.exit(1)
    assert script.client(READY) == []
    script.attach(2)
    assert script.answer(2, "initialize", initialized()) == [("child 2", READY), ChildReady(2)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (initialized(version="2099-01-01"), "it speaks protocol version"),
        ({"protocolVersion": 7}, "it speaks protocol version 7"),
        ({}, "it speaks protocol version null"),
    ],
)
def test_a_candidate_of_another_version_is_refused_and_the_old_child_serves_on(
    answer: Json, reason: str
) -> None:
    script = Script.legacy()
    script.attach(2)
    [refused] = script.answer(2, "initialize", answer)
    assert isinstance(refused, ChildRefused) and refused.generation == 2
    assert refused.reason.startswith(reason)
    assert to_child(script.client(call(1)), 1) == [{"own": "tools/list"}, call(1)]


def test_a_candidate_that_answers_the_opening_with_an_error_is_refused() -> None:
    script = Script.legacy()
    script.attach(2)
    [refused] = script.reject(2, "initialize")
    assert isinstance(refused, ChildRefused)


def test_a_candidate_whose_opening_answer_is_no_json_is_refused() -> None:
    script = Script.legacy()
    script.attach(2)
    id_ = script.own[2][0]["id"]
    events = script.child(2, b'{"jsonrpc":"2.0","id":"%s","result":{"x":NaN}}\n' % id_.encode())
    assert [type(effect) for effect in effects(events)] == [ChildRefused]


def test_initialize_that_a_dead_child_had_goes_to_the_next_one_under_its_own_id() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize("a"))
    assert script.exit(1) == []
    assert script.attach(2) == [("child 2", initialize("a"))]
    assert [m["id"] for m in to_client(script.child(2, result("a", initialized())))] == ["a"]


def test_initialize_in_flight_at_a_promotion_is_answered_once_by_the_new_child() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    assert script.attach(2) == [ChildReady(2)]
    assert script.promote(2) == [("child 2", initialize()), ChildDrained(1)]
    assert script.child(1, result(0, initialized())) == []
    assert len(to_client(script.child(2, result(0, initialized())))) == 1


def test_a_restart_before_the_handshake_gives_the_handshake_to_the_new_child_alone() -> None:
    script = Script()
    script.attach(1)
    assert script.attach(2) == [ChildReady(2)]
    assert script.promote(2) == [ChildDrained(1)]
    assert script.client(initialize()) == [("child 2", initialize())]
    script.child(2, result(0, initialized()))
    assert script.client(READY) == [("child 2", READY)]


def test_a_candidate_from_before_the_handshake_is_opened_when_it_comes_to_serve() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    script.attach(2)
    script.child(1, result(0, initialized()))
    assert script.client(READY) == [("child 1", READY)]
    events = script.promote(2)
    assert [m["own"] for m in to_child(events, 2)] == ["initialize"] and effects(events) == [ChildDrained(1)]
    assert script.client(call(1)) == []
    events = script.answer(2, "initialize", initialized())
    assert to_child(events, 2) == [READY, {"own": "tools/list"}, call(1)]


def test_no_server_for_discover_and_then_initialize_opens_a_legacy_session() -> None:
    script = Script()
    script.attach(1)
    assert script.client(modern(0, "server/discover")) == [("child 1", modern(0, "server/discover"))]
    assert script.child(1, failure(0)) == [("client", failure(0))]
    assert script.client(initialize(1)) == [("child 1", initialize(1))]
    assert effects(script.child(1, result(1, initialized()))) == [ChildReady(1)]
    script.client(READY)
    script.exit(1)
    assert [m["own"] for m in to_child(script.attach(2), 2)] == ["initialize"]


def test_discover_in_flight_at_a_crash_is_sent_again_under_its_own_id() -> None:
    script = Script()
    script.attach(1)
    script.client(modern(0, "server/discover"))
    assert script.exit(1) == []
    assert script.attach(2) == [("child 2", modern(0, "server/discover"))]


def test_a_modern_child_is_asked_to_discover_first_and_serves_at_once() -> None:
    script = Script.modern()
    script.exit(1)
    script.client(modern(1, "tools/call", {"name": "echo"}))
    events = script.attach(2)
    methods = [m.get("own", m.get("method")) for m in to_child(events, 2)]
    assert methods == ["server/discover", "tools/list", "tools/call"]
    assert effects(script.answer(2, "server/discover", discovered())) == [ChildReady(2)]


def test_a_modern_child_is_reported_ready_once_even_if_it_answers_a_call_first() -> None:
    script = Script.modern()
    script.exit(1)
    script.client(modern(1, "tools/call", {"name": "echo"}))
    script.attach(2)
    assert effects(script.child(2, result(1))) == [ChildReady(2)]
    assert effects(script.answer(2, "server/discover", discovered())) == []


def test_a_modern_candidate_that_lacks_the_version_is_refused() -> None:
    script = Script.modern()
    script.attach(2)
    [refused] = script.answer(2, "server/discover", {"supportedVersions": ["2027-01-01"]})
    assert refused == ChildRefused(
        2, f"it speaks protocol version [\"2027-01-01\"], and this session was opened with '{MODERN}'"
    )


def test_a_client_that_opens_without_discover_has_its_version_frozen_by_the_first_answer() -> None:
    script = Script()
    script.attach(1)
    script.client(modern(0, "tools/list"))
    assert effects(script.child(1, result(0, {"tools": []}))) == [ChildReady(1)]
    assert script.relay.status().protocol_version == MODERN


# What is in flight when the child is gone

SURE = [tool("echo", readOnlyHint=True)]
IDEMPOTENT = [tool("echo", idempotentHint=True)]
RISKY = [tool("echo")]

HELD = "held for the next child"
FAILED = lost(5, "child_exited", retryable=False)
FAILED_SAFE = lost(5, "child_exited", retryable=True)


@pytest.mark.parametrize(
    ("message", "tools", "outcome"),
    [
        (call(5), RISKY, FAILED),
        (call(5), [], FAILED),
        (call(5), SURE, HELD),
        (call(5), IDEMPOTENT, HELD),
        (call(5, task={"ttl": 5}), SURE, FAILED_SAFE),
        (request(5, "tools/list"), RISKY, HELD),
        (request(5, "tools/list", {"cursor": "x"}), RISKY, FAILED),
        (request(5, "prompts/list"), RISKY, HELD),
        (request(5, "prompts/list", {"cursor": "x"}), RISKY, FAILED),
        (request(5, "resources/list"), RISKY, HELD),
        (request(5, "resources/templates/list"), RISKY, HELD),
        (request(5, "resources/read", {"uri": "a:b"}), RISKY, HELD),
        (request(5, "prompts/get", {"name": "p"}), RISKY, HELD),
        (request(5, "completion/complete", {}), RISKY, HELD),
        (request(5, "logging/setLevel", {"level": "error"}), RISKY, HELD),
        (request(5, "resources/subscribe", {"uri": "a:b"}), RISKY, HELD),
        (request(5, "tasks/get", {"taskId": "t"}), RISKY, HELD),
        (request(5, "tasks/result", {"taskId": "t"}), RISKY, FAILED),
        (request(5, "custom/method", {}), RISKY, FAILED),
    ],
)
def test_what_a_dead_child_had_read_is_retried_once_or_answered_with_an_error(
    message: Json, tools: list[Json], outcome: Json | str
) -> None:
    script = Script.legacy().listed(tools)
    script.client(message)
    events = script.exit(1)
    if outcome != HELD:
        assert list(map(brief, to_client(events))) == [outcome]
        return
    assert events == []
    assert message in to_child(script.opened(2), 2)
    script.client(call("other"))  # so that it is not alone
    [failed] = [m for m in to_client(script.exit(2)) if m["id"] == 5]
    assert brief(failed) == FAILED_SAFE, "a second crash ends it"


def test_what_a_dead_child_had_not_read_goes_to_the_next_one_however_often() -> None:
    script = Script.legacy().listed(RISKY)
    script.client(call(5))
    for generation in (1, 2, 3):
        assert script.exit(generation, unread=script.sent[generation]) == []
        assert call(5) in to_child(script.opened(generation + 1), generation + 1)
    assert to_client(script.child(4, result(5))) == [result(5)]


def test_a_cut_line_is_sent_whole_and_what_came_before_it_is_lost() -> None:
    script = Script.legacy().listed(RISKY)
    script.client(call(5), call(6), call(7))
    after_cut = len(str(call(7)).encode())
    assert list(map(brief, to_client(script.exit(1, unread=after_cut)))) == [FAILED]
    assert to_child(script.opened(2), 2)[-3:-1] == [call(6), call(7)]


def test_the_error_of_a_lost_call_tells_how_the_server_ended_and_what_to_do() -> None:
    script = Script.legacy().listed(RISKY)
    script.client(call(5))
    answer = told(script.exit(1))
    assert answer["error"] == {
        "code": -32603,
        "message": "the MCP server was killed by SIGKILL before it answered tools/call 'echo'. "
        "It may or may not have taken effect: check before calling again.",
        "data": {
            "reason": "child_exited",
            "retryable": False,
            "exit_code": None,
            "signal": "SIGKILL",
            "stderr_tail": ["Traceback", "boom"],
        },
    }


def test_a_call_with_progress_is_not_retried() -> None:
    script = Script.legacy().listed(SURE)
    script.client(call(5, _meta={"progressToken": 5}))
    progress = notice("notifications/progress", {"progressToken": 5, "progress": 1})
    assert script.child(1, progress) == [("client", progress)]
    assert list(map(brief, to_client(script.exit(1)))) == [FAILED_SAFE]
    assert script.child(1, progress) == []


def test_a_call_is_not_retried_if_its_child_had_asked_the_client_something_since() -> None:
    script = Script.legacy().listed(SURE)
    script.child(1, request(1, "roots/list"))
    script.client(call(4))
    script.child(1, request(2, "sampling/createMessage"))
    script.client(call(5))
    assert [m["id"] for m in to_client(script.exit(1)) if "error" in m] == [4]


def test_a_call_that_was_alone_in_two_crashes_running_may_be_the_killer() -> None:
    script = Script.legacy().listed(SURE)
    script.client(call(5))
    assert script.exit(1) == []
    script.opened(2)
    script.answer(2, "tools/list", {"tools": SURE})
    assert list(map(brief, to_client(script.exit(2)))) == [FAILED_SAFE]
    script.opened(3)
    script.answer(3, "tools/list", {"tools": SURE})
    script.client(call(6))
    assert list(map(brief, to_client(script.exit(3)))) == [lost(6, "child_exited", retryable=True)]


def test_what_was_never_read_is_not_an_attempt() -> None:
    script = Script.legacy().listed(SURE)
    script.client(call(5))
    assert script.exit(1, unread=script.sent[1]) == []
    script.opened(2)
    assert script.exit(2) == []
    assert call(5) in to_child(script.opened(3), 3)


def test_a_planned_end_is_not_held_against_what_was_in_flight() -> None:
    script = Script.legacy().listed(SURE)
    script.client(call(5))
    assert script.exit(1, planned=True) == []
    script.opened(2)
    script.answer(2, "tools/list", {"tools": SURE})
    script.child(2, result(5))
    script.client(call(6))
    assert script.exit(2) == [], "it was alone in one crash only"


def test_a_planned_end_tells_that_the_child_was_replaced() -> None:
    script = Script.legacy().listed(RISKY)
    script.client(call(5))
    assert list(map(brief, to_client(script.exit(1, planned=True)))) == [
        lost(5, "child_replaced", retryable=False)
    ]


def test_held_requests_keep_their_order_and_go_before_newer_ones() -> None:
    script = Script.legacy().listed(SURE)
    script.client(call(1), call(2))
    script.exit(1)
    script.client(call(3), request(4, "tools/list"))
    events = script.opened(2)
    assert [m["id"] for m in to_child(events, 2) if "id" in m] == [1, 2, 3, 4]


# During an overlap


def overlap() -> Script:
    script = Script.legacy().listed(RISKY)
    script.attach(2)
    script.answer(2, "initialize", initialized())
    return script


def test_a_candidates_noise_is_dropped_and_its_requests_are_not() -> None:
    script = overlap()
    assert script.child(2, notice("notifications/message", {"level": "info", "data": "hi"})) == []
    assert script.child(2, notice("notifications/tools/list_changed")) == []
    assert script.child(2, notice("notifications/progress", {"progressToken": 1, "progress": 1})) == []
    assert script.child(2, request(1, "ping")) == [("child 2", result(1))]
    to, asked = only(script.child(2, request(1, "roots/list")))
    assert to == "client"
    assert script.client(result(asked["id"], {"roots": []})) == [("child 2", result(1, {"roots": []}))]


def test_the_old_child_finishes_what_it_has_and_says_no_more_of_lists() -> None:
    script = overlap()
    script.client(call(1))
    script.take()
    assert effects(script.promote(2)) == []
    assert script.child(1, notice("notifications/tools/list_changed")) == []
    log = notice("notifications/message", {"level": "info", "data": "hi"})
    assert script.child(1, log) == [("client", log)]
    assert to_child(script.client(call(2)), 2)[-1:] == [call(2)]
    assert script.child(1, result(1)) == [("client", result(1)), ChildDrained(1)]
    assert script.exit(1, planned=True) == []


def test_what_the_old_child_leaves_unanswered_but_safe_goes_to_the_new_one_at_once() -> None:
    script = overlap()
    script.client(request(7, "resources/read", {"uri": "a:b"}))
    script.promote(2)
    read = request(7, "resources/read", {"uri": "a:b"})
    assert script.exit(1, planned=True) == [("child 2", read)]
    assert script.child(2, result(7)) == [("client", result(7))]


def test_cancelling_the_last_call_of_the_old_child_drains_it() -> None:
    script = overlap()
    script.client(call(1))
    script.promote(2)
    cancelled = notice("notifications/cancelled", {"requestId": 1})
    assert script.client(cancelled) == [("child 1", cancelled), ChildDrained(1)]
    assert script.child(1, result(1)) == []


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("logging/setLevel", {"level": "error"}),
        ("resources/subscribe", {"uri": "a:b"}),
        ("resources/unsubscribe", {"uri": "a:b"}),
    ],
)
def test_what_the_client_sets_during_an_overlap_holds_for_both(method: str, params: Json) -> None:
    script = overlap()
    assert script.client(request(1, method, params)) == [("child 1", request(1, method, params))]
    assert script.child(1, result(1)) == [("client", result(1)), ("child 2", {"own": method, **params})]
    assert script.answer(2, method) == []


def test_a_setting_in_flight_while_the_candidate_opens_reaches_the_candidate() -> None:
    script = Script.legacy()
    script.attach(2)
    script.client(request(1, "logging/setLevel", {"level": "error"}))
    assert script.answer(2, "initialize", initialized()) == [("child 2", READY), ChildReady(2)]
    assert to_child(script.child(1, result(1)), 2) == [{"own": "logging/setLevel", "level": "error"}]


def test_a_setting_waits_for_a_candidate_to_open() -> None:
    script = Script.legacy()
    script.attach(2)
    script.client(request(1, "logging/setLevel", {"level": "error"}))
    assert script.child(1, result(1)) == [("client", result(1))]
    level = {"own": "logging/setLevel", "level": "error"}
    assert to_child(script.answer(2, "initialize", initialized()), 2) == [READY, level]


def test_a_setting_in_flight_at_a_promotion_reaches_the_new_child() -> None:
    script = overlap()
    script.client(request(1, "resources/subscribe", {"uri": "a:b"}))
    script.promote(2)
    assert to_child(script.child(1, result(1)), 2) == [{"own": "resources/subscribe", "uri": "a:b"}]


def test_a_setting_that_was_refused_is_repeated_nowhere() -> None:
    script = overlap()
    script.client(request(1, "resources/subscribe", {"uri": "a:b"}))
    assert script.child(1, failure(1)) == [("client", failure(1))]
    script.exit(2)
    assert [m.get("own") for m in to_child(script.opened(3), 3)] == ["initialize", None]


def test_roots_list_changed_goes_to_both() -> None:
    script = overlap()
    changed = notice("notifications/roots/list_changed")
    assert script.client(changed) == [("child 1", changed), ("child 2", changed)]


def test_settings_are_replayed_to_the_next_child_and_updates_told() -> None:
    script = Script.legacy()
    script.client(
        request(1, "logging/setLevel", {"level": "error"}),
        request(2, "resources/subscribe", {"uri": "a:1"}),
        request(3, "resources/subscribe", {"uri": "a:2"}),
        request(4, "resources/unsubscribe", {"uri": "a:1"}),
    )
    script.child(1, *map(result, (1, 2, 3, 4)))
    script.exit(1)
    script.attach(2)
    events = script.answer(2, "initialize", initialized())
    assert events == [
        ("client", notice("notifications/resources/updated", {"uri": "a:2"})),
        ("child 2", READY),
        ("child 2", {"own": "logging/setLevel", "level": "error"}),
        ("child 2", {"own": "resources/subscribe", "uri": "a:2"}),
        ChildReady(2),
    ]
    assert script.answer(2, "logging/setLevel") == []
    assert script.reject(2, "resources/subscribe") == []


# Holding


def test_a_planned_hold_lets_requests_wait_until_the_next_child_serves() -> None:
    script = Script.legacy().listed(RISKY)
    script.client(call(1))
    assert script.hold() == []
    assert script.client(call(2)) == []
    assert script.child(1, result(1)) == [("client", result(1)), ChildDrained(1)]
    assert script.exit(1, planned=True) == []
    script.attach(2)
    assert call(2) in to_child(script.answer(2, "initialize", initialized()), 2)
    assert to_child(script.client(call(3)), 2) == [call(3)]


def test_a_hold_with_nothing_in_flight_is_drained_at_once() -> None:
    assert Script.legacy().hold() == [ChildDrained(1)]


def test_a_hold_does_not_run_into_the_hold_limit_before_its_child_has_ended() -> None:
    script = Script.legacy(hold=10.0).listed(RISKY)
    script.hold()
    script.client(call(1))
    assert script.tick(50) == [] and script.relay.deadline() is None
    assert script.exit(1, planned=True) == []
    assert script.relay.deadline() == 60
    assert script.tick(59) == []
    assert call(1) in to_child(script.opened(2), 2)


def test_a_hold_whose_next_child_never_opens_ends_by_the_hold_limit() -> None:
    script = Script.legacy(hold=10.0).listed(RISKY)
    script.hold()
    script.client(call(1))
    script.exit(1, planned=True)
    script.attach(2)
    script.exit(2)
    assert list(map(brief, to_client(script.tick(10)))) == [lost(1, "child_unavailable", retryable=True)]


def test_what_waits_for_a_server_that_hangs_in_initialize_is_told_that_and_no_older_exit() -> None:
    script = Script.legacy(hold=10.0).listed(RISKY)
    script.exit(1)
    script.now = 3.0
    script.client(call(1))
    script.now = 4.0
    script.attach(2)
    error = told(script.tick(13))["error"]
    assert error["message"].startswith(
        "The MCP server runs, but has not answered initialize for 9 s: tools/call waited 10 s for it in vain."
    )
    assert (error["data"]["exit_code"], error["data"]["signal"], error["data"]["stderr_tail"]) == (
        None,
        None,
        [],
    )


def test_a_crash_while_holding_answers_what_was_in_flight_and_keeps_what_waits() -> None:
    script = Script.legacy().listed(RISKY)
    script.client(call(1))
    script.hold()
    script.client(call(2))
    assert list(map(brief, to_client(script.exit(1)))) == [lost(1, "child_exited", retryable=False)]
    assert call(2) in to_child(script.opened(2), 2)


# Unavailable


def test_what_waits_for_too_long_is_answered_with_the_reason() -> None:
    script = Script.legacy(hold=10.0)
    script.exit(1)
    script.client(call(1))
    assert script.relay.deadline() == 10
    assert script.tick(9.9) == []
    answer = told(script.tick(10))
    assert brief(answer) == lost(1, "child_unavailable", retryable=True)
    assert answer["error"]["data"]["stderr_tail"] == ["Traceback", "boom"]
    assert script.relay.deadline() is None


def test_an_unavailable_server_is_told_at_once_and_recovery_serves_again() -> None:
    script = Script.legacy().listed(RISKY)
    script.exit(1)
    script.client(call(1))
    assert list(map(brief, to_client(script.unavailable()))) == [lost(1, "child_unavailable", retryable=True)]
    answer = told(script.client(call(2)))
    assert answer["error"]["message"] == "It is broken. Mend it."
    script.opened(2)
    assert script.client(call(3)) == [("child 2", call(3))]


def test_initialize_of_a_server_that_cannot_start_is_answered_with_the_reason() -> None:
    script = Script()
    script.client(initialize())
    answer = told(script.unavailable())
    assert brief(answer) == lost(0, "child_unavailable", retryable=True)


def test_the_tools_are_listed_from_memory_while_no_server_can_come_up() -> None:
    script = Script.legacy().listed(RISKY)
    script.exit(1)
    script.unavailable()
    answer = told(script.client(request(1, "tools/list")))
    assert [t["name"] for t in answer["result"]["tools"]] == ["echo", "mcpkeep"]


def test_what_an_old_child_leaves_behind_when_no_other_will_come_is_answered_at_once() -> None:
    script = overlap()
    script.client(request(7, "resources/read", {"uri": "a:b"}))
    script.promote(2)
    script.exit(2)
    script.unavailable()
    assert [brief(m)["id"] for m in to_client(script.exit(1, planned=True))] == [7]


# Requests of the child, tasks, states, streams


def test_what_a_dead_child_had_asked_is_cancelled_and_late_answers_are_dropped() -> None:
    script = Script.legacy()
    asked = told(script.child(1, request(1, "sampling/createMessage", {})))
    assert asked["id"] != 1 and not str(asked["id"]).isdigit()
    reason = "the MCP server was killed by SIGKILL"
    assert script.exit(1) == [
        ("client", notice("notifications/cancelled", {"requestId": asked["id"], "reason": reason}))
    ]
    script.opened(2)
    again = told(script.child(2, request(1, "sampling/createMessage", {})))
    assert script.client(result(asked["id"])) == []
    assert script.client(result(again["id"])) == [("child 2", result(1))]


def test_a_request_state_goes_to_its_child_while_that_lives_and_is_refused_afterwards() -> None:
    script = Script.modern()
    script.client(modern(1, "tools/call", {"name": "echo"}))
    script.child(1, result(1, {"resultType": "input_required", "requestState": "sealed"}))
    script.opened(2)
    script.promote(2)
    back = modern(2, "tools/call", {"name": "echo", "requestState": "sealed"})
    assert to_child(script.client(modern(9, "tools/call", {"name": "echo"})), 2) != []
    script.exit(1, planned=True)
    back = modern(3, "tools/call", {"name": "echo", "requestState": "sealed"})
    answer = told(script.client(back))
    assert brief(answer) == lost(3, "child_replaced", retryable=True)
    assert "without `requestState`" in answer["error"]["message"]


def test_a_request_state_unread_by_its_dead_child_never_reaches_another() -> None:
    script = Script.modern()
    script.client(modern(1, "tools/call", {"name": "echo"}))
    script.child(1, result(1, {"resultType": "input_required", "requestState": "sealed"}))
    script.client(modern(2, "tools/call", {"name": "echo", "requestState": "sealed"}))
    assert list(map(brief, to_client(script.exit(1, unread=1)))) == [
        lost(2, "child_replaced", retryable=True)
    ]
    assert len(to_child(script.attach(2), 2)) == 1


def test_a_request_state_goes_on_to_a_child_that_is_held_until_it_is_drained() -> None:
    script = Script.modern()
    script.client(modern(1, "tools/call", {"name": "a"}), modern(4, "tools/call", {"name": "b"}))
    script.child(1, result(1, {"resultType": "input_required", "requestState": "sealed"}))
    script.hold()
    back = modern(2, "tools/call", {"name": "a", "requestState": "sealed"})
    assert to_child(script.client(back), 1) == [back]
    script.child(1, result(2))
    assert effects(script.child(1, result(4))) == [ChildDrained(1)]
    [answer] = to_client(script.client({**back, "id": 3}))
    assert brief(answer) == lost(3, "child_replaced", retryable=True)


def test_tasks_go_to_the_child_that_has_them_and_to_the_serving_one_afterwards() -> None:
    script = overlap()
    script.client(call(1, task={}))
    script.child(1, result(1, {"task": {"taskId": "t"}}))
    script.client(call(2))
    script.promote(2)
    get = request(3, "tasks/get", {"taskId": "t"})
    assert script.client(get) == [("child 1", get)]
    script.child(1, result(3), result(2))
    script.exit(1, planned=True)
    get = request(4, "tasks/get", {"taskId": "t"})
    assert script.client(get) == [("child 2", get)]


LISTEN = modern("L", "subscriptions/listen", {"notifications": {"toolsListChanged": True}})


def test_a_stream_is_opened_again_and_only_the_first_acknowledgement_is_told() -> None:
    script = Script.modern().listed(RISKY)
    script.client(LISTEN)
    told = script.child(1, acknowledged(resourceSubscriptions=["a:b"]))
    assert told == [("client", acknowledged(resourceSubscriptions=["a:b"], toolsListChanged=True))]
    assert script.exit(1) == []
    assert LISTEN in to_child(script.attach(2), 2)
    meta = {"io.modelcontextprotocol/subscriptionId": "L"}
    updated = notice("notifications/resources/updated", {"uri": "a:b", "_meta": meta})
    assert script.child(2, acknowledged(resourceSubscriptions=["a:b"])) == [("client", updated)]
    script.answer(2, "server/discover", discovered())
    assert script.answer(2, "tools/list", {"tools": [tool("new")]}) == [
        ("client", notice("notifications/tools/list_changed", {"_meta": meta}))
    ]


def test_a_stream_does_not_keep_a_child_from_draining_and_moves_at_the_promotion() -> None:
    script = Script.modern()
    script.client(LISTEN)
    script.child(1, acknowledged())
    script.opened(2)
    events = script.promote(2)
    assert to_child(events, 2) == [LISTEN] and effects(events) == [ChildDrained(1)]
    assert script.child(1, result("L")) == []


@pytest.mark.parametrize("how", ["cancelled", "refused", "ended", "unavailable"])
def test_an_ended_stream_hears_of_no_more_changes_and_its_id_can_be_used_again(how: str) -> None:
    script = Script.modern().listed(RISKY)
    script.client(LISTEN)
    script.child(1, acknowledged())
    match how:
        case "cancelled":
            script.client(notice("notifications/cancelled", {"requestId": "L"}))
        case "refused":
            script.child(1, failure("L"))
        case "ended":
            script.child(1, result("L"))
        case _:
            script.exit(1)
            script.unavailable()
    script.exit(1)
    script.opened(2)
    assert to_client(script.answer(2, "tools/list", {"tools": []})) == []
    script.client(LISTEN)
    assert to_client(script.child(2, acknowledged())) == [acknowledged(toolsListChanged=True)]


def test_a_stream_not_yet_acknowledged_at_a_crash_is_acknowledged_by_the_next_child() -> None:
    script = Script.modern()
    script.client(LISTEN)
    script.exit(1)
    script.opened(2)
    assert script.child(2, acknowledged()) == [("client", acknowledged(toolsListChanged=True))]


# Cancelling


def test_a_held_request_that_is_cancelled_is_answered_by_nobody_and_dropped() -> None:
    script = Script.legacy()
    script.exit(1)
    script.client(call(1), call(2))
    assert script.client(notice("notifications/cancelled", {"requestId": 1})) == []
    assert [m["id"] for m in to_child(script.opened(2), 2) if m.get("method") == "tools/call"] == [2]
    assert script.relay.calls.held_bytes == 0


@pytest.mark.parametrize("id_", [99, "1", None, 0])
def test_a_cancellation_of_what_is_not_in_flight_is_not_passed_on(id_: object) -> None:
    script = Script.legacy()
    script.client(call(1))
    assert script.client(notice("notifications/cancelled", {"requestId": id_})) == []


def test_initialize_cannot_be_cancelled() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    assert script.client(notice("notifications/cancelled", {"requestId": 0})) == []
    assert len(to_client(script.child(1, result(0, initialized())))) == 1


# What a replacement changed


def test_a_changed_tool_list_is_told_by_list_changed_and_in_the_log() -> None:
    script = Script.legacy().listed([tool("a"), tool("b"), tool("c")])
    script.exit(1)
    script.opened(2)
    events = script.answer(2, "tools/list", {"tools": [tool("b", readOnlyHint=True), tool("c"), tool("d")]})
    text = "The MCP server's tools changed: added d; removed a; changed b."
    assert events == [
        ("client", notice("notifications/tools/list_changed")),
        (
            "client",
            notice("notifications/message", {"level": "info", "logger": "mcpkeep", "data": text}),
        ),
    ]
    assert script.relay.status().tools_gone == ("a",)


def test_an_unchanged_list_is_not_told_whatever_the_order_of_its_members() -> None:
    script = Script.legacy().listed([tool("a"), tool("b")])
    script.exit(1)
    script.opened(2)
    swapped = [dict(reversed(tool(name).items())) for name in ("a", "b")]
    assert script.answer(2, "tools/list", {"tools": swapped}) == []


def test_pages_are_compared_as_one_list() -> None:
    script = Script.legacy()
    script.client(request(1, "tools/list"), request(2, "tools/list", {"cursor": "2"}))
    script.child(1, result(1, {"tools": [tool("a")], "nextCursor": "2"}), result(2, {"tools": [tool("b")]}))
    script.exit(1)
    script.opened(2)
    assert script.answer(2, "tools/list", {"tools": [tool("a")], "nextCursor": "p"}) == [
        ("child 2", {"own": "tools/list", "cursor": "p"})
    ]
    assert script.answer(2, "tools/list", {"tools": [tool("b")]}) == []


def test_a_list_that_the_client_knows_in_part_is_told_as_changed() -> None:
    script = Script.legacy()
    script.client(request(1, "tools/list"))
    script.child(1, result(1, {"tools": [tool("a")], "nextCursor": "2"}))
    script.exit(1)
    script.opened(2)
    events = script.answer(2, "tools/list", {"tools": [tool("a")]})
    assert to_client(events)[0] == notice("notifications/tools/list_changed")


def test_a_list_that_cannot_be_fetched_is_told_as_changed_and_nothing_as_gone() -> None:
    script = Script.legacy().listed(SURE)
    script.exit(1)
    script.opened(2)
    events = script.reject(2, "tools/list")
    assert to_client(events)[0] == notice("notifications/tools/list_changed")
    assert "unknown how" in to_client(events)[1]["params"]["data"]
    assert script.relay.status().tools_gone == ()


def test_a_list_without_end_is_told_as_changed_and_no_longer_asked_for() -> None:
    script = Script.legacy().listed(RISKY)
    script.exit(1)
    script.opened(2)
    events = script.take()
    pages = 0
    while not to_client(events) and pages < 200:
        pages += 1
        events = script.answer(2, "tools/list", {"tools": [], "nextCursor": "more"})
    assert pages == 101 and script.own[2] == []


def test_a_child_without_tools_leaves_our_own_and_tells_that_the_others_went() -> None:
    script = Script.legacy().listed([tool("a")])
    script.exit(1)
    script.client(request(1, "tools/list"))
    events = script.opened(2, capabilities={})
    assert notice("notifications/tools/list_changed") in to_client(events)
    assert script.relay.status().tools_gone == ("a",)
    [answer] = to_client(script.child(2, failure(1)))
    assert [t["name"] for t in answer["result"]["tools"]] == ["mcpkeep"]
    [answer] = to_client(script.client(request(2, "tools/list")))
    assert [t["name"] for t in answer["result"]["tools"]] == ["mcpkeep"]


def test_a_log_level_that_waited_for_a_child_without_logging_is_taken_by_us() -> None:
    script = Script.legacy()
    script.exit(1)
    script.client(request(1, "logging/setLevel", {"level": "error"}))
    script.opened(2, capabilities={"tools": {}})
    assert script.child(2, failure(1)) == [("client", result(1))]
    assert script.client(request(2, "logging/setLevel", {"level": "info"})) == [("client", result(2))]


def test_the_next_error_that_names_a_gone_tool_says_so_once() -> None:
    script = Script.legacy().listed([tool("a")])
    script.exit(1)
    script.opened(2)
    script.answer(2, "tools/list", {"tools": []})
    script.client(call(1, "a"), call(2, "a"))
    answer = told(script.child(2, failure(1, message="Unknown tool")))
    text = "The MCP server was replaced and no longer offers 'a'; ask for tools/list again."
    assert answer["error"]["message"] == f"Unknown tool {text}"
    assert script.child(2, failure(2)) == [("client", failure(2))]


@pytest.mark.parametrize("content", [[], [{"type": "text", "text": "x"}], "oops", None])
def test_a_failed_result_that_names_a_gone_tool_says_so_too(content: object) -> None:
    script = Script.legacy().listed([tool("a")])
    script.exit(1)
    script.opened(2)
    script.answer(2, "tools/list", {"tools": []})
    script.client(call(1, "a"))
    answer = told(script.child(2, result(1, {"isError": True, "content": content})))
    assert "no longer offers 'a'" in answer["result"]["content"][-1]["text"]


def test_a_gone_tool_that_comes_back_is_gone_no_longer() -> None:
    script = Script.legacy().listed([tool("a")])
    script.exit(1)
    script.opened(2)
    script.answer(2, "tools/list", {"tools": []})
    script.exit(2)
    script.opened(3)
    script.answer(3, "tools/list", {"tools": [tool("a")]})
    assert script.relay.status().tools_gone == ()


def test_a_late_list_of_the_former_child_is_not_taken_for_the_new_ones() -> None:
    script = Script.legacy().listed([tool("a")])
    script.exit(1)
    script.opened(2)
    script.client(call(1))
    script.attach(3)
    script.answer(3, "initialize", initialized())
    script.promote(3)
    assert script.answer(3, "tools/list", {"tools": [tool("a")], "nextCursor": "2"}) != []
    assert script.answer(2, "tools/list", {"tools": [tool("old")]}) == []
    assert script.answer(3, "tools/list", {"tools": []}) == []
    assert script.relay.status().server_tools == ("a",)


@pytest.mark.parametrize("number", ["1e400", "9" * 5000])
def test_numbers_that_python_cannot_hold_are_carried_in_lists(number: str) -> None:
    script = Script.legacy()
    script.client(request(1, "tools/list"))
    tools = b'[{"name":"a","inputSchema":{"maximum":%s}}]' % number.encode()
    script.relay.from_child(1, [b'{"jsonrpc":"2.0","id":1,"result":{"tools":%s}}\n' % tools], 0)
    [frame] = script.relay.output.client
    assert number.encode() in frame


def test_the_versions_and_capabilities_told_stay_as_they_are() -> None:
    script = Script.legacy({"tools": {}})
    script.exit(1)
    events = script.opened(2, capabilities=FULL)
    assert to_client(events) == []
    assert script.relay.opening.capabilities == {"tools", "logging"}
    assert script.relay.status().protocol_version == VERSION


def test_a_list_that_the_old_child_answers_after_the_promotion_is_compared_too() -> None:
    script = Script.legacy()
    script.client(request(1, "tools/list"))
    script.opened(2)
    script.promote(2)
    events = script.child(1, result(1, {"tools": [tool("a")]}))
    assert to_child(events, 2) == [{"own": "tools/list"}]
    events = script.answer(2, "tools/list", {"tools": [tool("b")]})
    assert to_client(events)[0] == notice("notifications/tools/list_changed")


def test_a_list_that_is_being_compared_is_not_asked_for_beside() -> None:
    script = Script.legacy().listed([tool("a")])
    script.client(request(1, "tools/list"))
    script.opened(2)
    assert to_child(script.promote(2), 2) == [{"own": "tools/list"}]
    assert to_child(script.child(1, result(1, {"tools": [tool("a")]})), 2) == []
    assert script.answer(2, "tools/list", {"tools": [tool("a")]}) == []


def test_a_list_told_from_memory_is_compared_with_the_next_childs() -> None:
    script = Script.legacy(hold=10.0)
    script.exit(1)
    script.client(request(1, "tools/list"))
    assert [t["name"] for t in told(script.tick(10))["result"]["tools"]] == ["mcpkeep"]
    script.opened(2)
    events = script.answer(2, "tools/list", {"tools": [tool("a")]})
    assert to_client(events)[0] == notice("notifications/tools/list_changed")
