"""The form by which a client asks its user about conflicts, and what comes back."""

from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw

from mcpkeep.actors.elicitation import MOST, Elicitation
from mcpkeep.actors.relay import RequestFailed
from mcpkeep.protocol.upgrade.plan import Choice

CONFLICTS = {"b/two.md": "-1\n+2\n", "a/one.md": "".join(f"+{n}\n" for n in range(100))}


class Client:
    def __init__(self, answer: object, *, can: bool = True) -> None:
        self.answer = answer
        self.can = can
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def client_can(self, capability: str) -> bool:
        return self.can and capability == "elicitation"

    async def ask_client(self, method: str, params: Mapping[str, object], *, within: float) -> Raw:
        self.asked.append((method, params))
        if self.answer is None:
            raise RequestFailed(method, "it took longer")
        return Raw(msgspec.json.encode(self.answer))


def decide(client: Client, conflicts: Mapping[str, str] = CONFLICTS) -> Mapping[str, Choice] | None:
    return anyio.run(Elicitation(client).decide, conflicts)


def test_the_form_has_a_choice_for_each_file_and_the_beginning_of_its_diff() -> None:
    client = Client({"action": "accept", "content": {"file_1": "take", "file_2": "keep"}})
    assert decide(client) == {"a/one.md": Choice.TAKE, "b/two.md": Choice.KEEP}
    ((method, params),) = client.asked
    schema = params["requestedSchema"]
    assert (method, schema["required"]) == ("elicitation/create", ["file_1", "file_2"])
    assert [field["title"] for field in schema["properties"].values()] == ["a/one.md", "b/two.md"]
    assert "+11\n" in params["message"] and "+12\n" not in params["message"]


@pytest.mark.parametrize(
    "answer",
    [
        {"action": "decline"},
        {"action": "cancel", "content": None},
        {"action": "accept"},
        {"action": "accept", "content": {"file_1": "perhaps"}},
        {"action": "accept", "content": []},
        ["accept"],
        None,
    ],
)
def test_whatever_is_no_decision_decides_nothing(answer: object) -> None:
    assert decide(Client(answer)) is None


def test_a_file_that_was_left_out_stays_undecided() -> None:
    assert decide(Client({"action": "accept", "content": {"file_2": "take"}})) == {"b/two.md": Choice.TAKE}


def test_a_client_that_cannot_ask_or_too_many_conflicts_are_left_to_the_list() -> None:
    mute, eager = Client({}, can=False), Client({})
    assert decide(mute) is None
    assert decide(eager, {f"{n}.md": "" for n in range(MOST + 1)}) is None
    assert (mute.asked, eager.asked) == ([], [])
