"""Smoke tests are made in order, closed in any case, and end with the server."""

from collections.abc import Mapping

import pytest

from mcpkeep.actors.smoke import make_smoke_tests
from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.proof import SmokeResult, SmokeTest
from mcpkeep.protocol.upgrade.smoke import SmokeRun, choose_smoke

pytestmark = pytest.mark.anyio


class Server:
    """Answers each call as told, by its `action`; remembers them."""

    def __init__(self, answers: Mapping[str, Mapping[str, object] | Exception]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, object, float]] = []

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        action = str(arguments.get("action", tool))
        self.calls.append((tool, action, within))
        answer = self.answers[action]
        if isinstance(answer, Exception):
            raise answer
        return {"structuredContent": answer}


OK = {"status": "success"}
BAD = {"status": "error", "error": "no browser"}
BROWSER = choose_smoke(["pos_browser"], declared=(), browser=True)[2]


async def results(server: Server, *runs: SmokeRun) -> list[tuple[str, str, str]]:
    made = await make_smoke_tests(server, runs, within=7)
    return [(result.name, result.status, result.detail) for result in made]


async def test_a_browser_session_is_opened_and_closed() -> None:
    server = Server({"navigate": OK, "close": OK})
    assert await results(server, BROWSER) == [("browser_smoke_test", "passed", "")]
    assert server.calls == [("pos_browser", "navigate", 7), ("pos_browser", "close", 7)]


@pytest.mark.parametrize(
    ("navigate", "close", "detail"),
    [
        (BAD, OK, "$.status is 'error', expected 'success'; no browser"),
        (OK, BAD, "$.status is 'error', expected 'success'; no browser"),
        (BAD, {}, "$.status is 'error', expected 'success'; no browser"),
        (UpgradeFailed("late", remediation=""), OK, "late"),
    ],
)
async def test_the_session_is_closed_in_any_case_and_the_first_failure_is_told(
    navigate: Mapping[str, object] | Exception, close: Mapping[str, object], detail: str
) -> None:
    server = Server({"navigate": navigate, "close": close})
    assert await results(server, BROWSER) == [("browser_smoke_test", "failed", detail)]
    assert [action for _, action, _ in server.calls] == ["navigate", "close"]


async def test_a_skipped_one_makes_no_call() -> None:
    server = Server({})
    run = SmokeRun("ours", "t", skipped="not there")
    assert await make_smoke_tests(server, [run]) == (SmokeResult("ours", "t", "skipped", "not there"),)
    assert server.calls == []


async def test_calls_after_a_failed_one_are_not_made() -> None:
    server = Server({"a": BAD, "b": OK})
    calls = tuple(SmokeTest("ours", "t", {"action": action}, "$.status", "success") for action in "ab")
    await results(server, SmokeRun("ours", "t", calls=calls))
    assert [action for _, action, _ in server.calls] == ["a"]


async def test_the_end_of_the_server_ends_the_tests() -> None:
    server = Server({"navigate": ServerEnded("gone", remediation="", exit_=None)})
    with pytest.raises(ServerEnded, match="gone"):
        await make_smoke_tests(server, [BROWSER])
