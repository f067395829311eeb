"""What a client sees while a prepared server takes over, and the old one is frozen and woken."""

from mcpkeep.protocol.switch import (
    ChildAttached,
    ChildDrained,
    ChildFrozen,
    ChildReady,
    ChildRefused,
    ChildThawed,
)
from tests.protocol.relay.relay_script import (
    FULL,
    Event,
    Script,
    acknowledged,
    brief,
    call,
    effects,
    initialize,
    initialized,
    lost,
    modern,
    notice,
    request,
    result,
    to_child,
    to_client,
    told,
    tool,
)

READY = notice("notifications/initialized")


def freeze(script: Script, generation: int) -> list[Event]:
    return script.order(ChildFrozen(generation, script.sent.get(generation, 0)))


def beside(script: Script, generation: int) -> list[Event]:
    """A prepared child, its session open."""
    return script.order(ChildAttached(generation, beside=True)) + script.answer(
        generation, "initialize", initialized()
    )


def frozen() -> Script:
    """Child 2 serves, and child 1 is frozen."""
    script = Script.legacy().listed([tool("echo")])
    beside(script, 2)
    script.promote(2)
    freeze(script, 1)
    script.answer(2, "tools/list", {"tools": [tool("echo")]})
    return script


def test_a_prepared_child_serves_nobody_before_it_is_promoted_even_where_nobody_else_does() -> None:
    script = Script.legacy()
    script.exit(1)
    assert script.client(call(5)) == []
    events = beside(script, 2)
    assert to_child(events, 2)[1:] == [READY] and effects(events) == [ChildReady(2)]
    assert to_child(script.promote(2), 2) == [{"own": "tools/list"}, call(5)]


def test_a_prepared_child_does_not_end_the_word_that_no_server_will_come() -> None:
    script = Script.legacy()
    script.exit(1)
    script.unavailable()
    beside(script, 2)
    assert brief(told(script.client(call(5)))) == lost(5, "child_unavailable", retryable=True)
    script.promote(2)
    assert to_child(script.client(call(6)), 2) == [{"own": "tools/list"}, call(6)]


def test_what_a_frozen_child_had_is_answered_and_what_it_says_late_is_dropped() -> None:
    script = Script.legacy().listed([tool("echo"), tool("safe", readOnlyHint=True)])
    script.child(1, request(1, "roots/list"))
    script.client(call(5), call(6, "safe"))
    beside(script, 2)
    script.promote(2)
    events = freeze(script, 1)
    cancelled, error = to_client(events)
    assert cancelled["method"] == "notifications/cancelled"
    assert brief(error) == lost(5, "child_replaced", retryable=False)
    assert to_child(events, 2) == [call(6, "safe")]
    assert script.child(1, result(5), result(6), notice("notifications/message", {"data": "x"})) == []
    assert told(script.child(2, result(6))) == result(6)


def test_calls_take_the_short_way_while_another_child_is_frozen() -> None:
    script = frozen()
    assert script.relay.lane.link is not None and script.relay.lane.link.generation == 2
    script.order(ChildThawed(1))
    assert script.relay.lane.link is None


def test_a_woken_child_serves_at_once_with_the_session_it_had() -> None:
    script = frozen()
    assert to_child(script.order(ChildThawed(1)), 1) == [notice("notifications/roots/list_changed")]
    events = script.promote(1)
    assert [message["own"] for message in to_child(events, 1)] == ["tools/list"]
    assert effects(events) == [ChildDrained(2)]
    assert script.client(call(5)) == [("child 1", call(5))]
    freeze(script, 2)
    assert told(script.child(1, result(5))) == result(5)


def test_a_woken_child_is_told_the_log_level_and_the_subscriptions_of_now() -> None:
    script = Script.legacy(FULL)
    for id_, uri in enumerate(("a:1", "a:2"), 10):
        script.client(request(id_, "resources/subscribe", {"uri": uri}))
        script.child(1, result(id_))
    beside(script, 2)
    script.promote(2)
    freeze(script, 1)
    script.client(request(20, "resources/unsubscribe", {"uri": "a:1"}))
    script.child(2, result(20))
    for id_, method, params in (
        (21, "resources/subscribe", {"uri": "a:3"}),
        (22, "logging/setLevel", {"level": "error"}),
    ):
        script.client(request(id_, method, params))
        script.child(2, result(id_))
    assert to_child(script.order(ChildThawed(1)), 1) == [
        notice("notifications/roots/list_changed"),
        {"own": "resources/unsubscribe", "uri": "a:1"},
        {"own": "logging/setLevel", "level": "error"},
        {"own": "resources/subscribe", "uri": "a:3"},
    ]


def test_a_child_that_was_frozen_before_the_client_was_ready_hears_of_that_when_it_is_woken() -> None:
    script = Script()
    script.attach(1)
    script.client(initialize())
    script.child(1, result(0, initialized()))
    beside(script, 2)
    script.promote(2)
    freeze(script, 1)
    script.client(READY)
    assert to_child(script.order(ChildThawed(1)), 1) == [READY]


def test_a_child_that_was_frozen_in_a_former_session_of_the_client_is_refused() -> None:
    script = frozen()
    script.client(initialize(7))
    script.child(2, result(7, initialized()))
    reason = "the client has opened another session since it was frozen"
    assert script.order(ChildThawed(1)) == [ChildRefused(1, reason)]


def test_a_stream_that_moves_to_a_successor_is_cancelled_at_the_old_one_which_may_get_it_back() -> None:
    script = Script.modern()
    listen = modern("L", "subscriptions/listen", {"notifications": {}})
    script.client(listen)
    script.child(1, acknowledged())
    script.order(ChildAttached(2, beside=True))
    events = script.promote(2)
    assert to_child(events, 1) == [notice("notifications/cancelled", {"requestId": "L"})]
    assert listen in to_child(events, 2)
    freeze(script, 1)
    script.order(ChildThawed(1))
    assert listen in to_child(script.promote(1), 1)


def test_a_frozen_child_that_dies_is_no_news_to_the_client() -> None:
    assert frozen().exit(1) == []
