"""Ids and tokens of the children's own requests: never the same towards the client, and back as they were."""

import msgspec
import pytest

from mcpkeep.protocol.relay.minted import Minted
from tests.protocol.relay.relay_script import Json, line, notice, request, result


def ask(minted: Minted, generation: int, id_: int | str, token: int | str | None = None) -> Json:
    params = {} if token is None else {"_meta": {"progressToken": token, "x": 1}, "y": 2}
    frame = minted.request(generation, line(request(id_, "roots/list", params)), id_, token)
    assert frame.endswith(b"\n")
    message: Json = msgspec.json.decode(frame)
    return message


def test_each_request_gets_an_id_of_its_own_that_is_no_number() -> None:
    minted = Minted()
    ids = [ask(minted, generation, id_)["id"] for generation in (1, 2) for id_ in (1, 1, "1")]
    assert len(set(ids)) == 6
    assert not any(id_.isdigit() for id_ in ids)


def test_the_rest_of_a_request_goes_on_as_it_came() -> None:
    asked = ask(Minted(), 1, 5, token=7)
    meta = {"progressToken": asked["id"], "x": 1}
    assert asked == request(asked["id"], "roots/list", {"_meta": meta, "y": 2})
    odd = b'{"id":1,"jsonrpc":"2.0","method":"m","x":1e400}\n'
    assert b'"x":1e400' in Minted().request(1, odd, 1, None)


@pytest.mark.parametrize("id_", [1, "1", "a b", 10**30])
def test_an_answer_goes_back_once_to_its_child_under_its_own_id(id_: int | str) -> None:
    minted = Minted()
    ask(minted, 1, id_)
    asked = ask(minted, 2, id_)
    answer = minted.answer(asked["id"], line(result(asked["id"], {"a": 1})))
    assert answer is not None
    assert (answer[0], msgspec.json.decode(answer[1])) == (2, result(id_, {"a": 1}))
    assert minted.answer(asked["id"], line(result(asked["id"]))) is None


@pytest.mark.parametrize("id_", [1, "1", "mcpkeep:1.9", ""])
def test_an_answer_to_what_nobody_asked_goes_nowhere(id_: int | str) -> None:
    minted = Minted()
    ask(minted, 1, 1)
    assert minted.answer(id_, line(result(id_))) is None


def test_the_clients_progress_goes_back_under_the_childs_token() -> None:
    minted = Minted()
    asked = ask(minted, 3, 1, token="t")
    silent = ask(minted, 3, 2)
    frame = line(notice("notifications/progress", {"progressToken": asked["id"], "progress": 1}))
    back = minted.client_progress(asked["id"], frame)
    assert back is not None
    expected = notice("notifications/progress", {"progressToken": "t", "progress": 1})
    assert (back[0], msgspec.json.decode(back[1])) == (3, expected)
    for token in (silent["id"], "t", 1, None):
        assert minted.client_progress(token, frame) is None


def test_a_child_cancels_its_own_request_and_no_other() -> None:
    minted = Minted()
    ask(minted, 1, 1)
    asked = ask(minted, 2, 1)
    frame = line(notice("notifications/cancelled", {"requestId": 1, "reason": "r"}))
    assert minted.child_cancels(2, "1", frame) is None
    assert minted.child_cancels(3, 1, frame) is None
    cancelled = minted.child_cancels(2, 1, frame)
    assert cancelled is not None
    expected = notice("notifications/cancelled", {"requestId": asked["id"], "reason": "r"})
    assert msgspec.json.decode(cancelled) == expected
    assert minted.child_cancels(2, 1, frame) is None
    assert minted.answer(asked["id"], line(result(asked["id"]))) is None


def test_what_a_dead_child_asked_is_forgotten() -> None:
    minted = Minted()
    first, other, second = (ask(minted, generation, 1)["id"] for generation in (1, 2, 1))
    assert minted.forget(1) == [first, second]
    assert minted.forget(1) == []
    assert minted.answer(first, line(result(first))) is None
    assert minted.answer(other, line(result(other))) is not None
