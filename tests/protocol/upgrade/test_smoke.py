"""Which smoke tests are made of a server, and what their answers are worth."""

import json
from typing import Any

import pytest

from mcpkeep.protocol.upgrade.proof import SmokeResult, SmokeTest
from mcpkeep.protocol.upgrade.smoke import (
    SmokeRun,
    browser_wanted,
    choose_smoke,
    judge_answer,
    judge_failure,
    value_of,
)

SEARCH = SmokeTest("rag_search_test", "search_standards", {}, "$.retrieval_method", "vector")
ANY = SmokeTest("ours", "tool", {}, "", None)


def text(value: object) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": json.dumps(value)}]}


def test_a_full_server_gets_every_test() -> None:
    runs = choose_smoke(
        ["pos_workflow", "search_standards", "pos_browser", "tool"], declared=[ANY], browser=True
    )
    assert [(run.name, run.tool, [call.arguments for call in run.calls], run.builtin) for run in runs] == [
        ("workflow_engine_test", "pos_workflow", [{"action": "list_workflows"}], True),
        ("rag_search_test", "search_standards", [{"query": "how to write tests", "n_results": 1}], True),
        (
            "browser_smoke_test",
            "pos_browser",
            [{"action": "navigate", "url": "about:blank", "session_id": "mcpkeep-smoke-test"}],
            True,
        ),
        ("ours", "tool", [{}], False),
    ]
    assert runs[2].closing == SmokeTest(
        "browser_smoke_test",
        "pos_browser",
        {"action": "close", "session_id": "mcpkeep-smoke-test"},
        "$.status",
        "success",
    )


def test_a_server_without_the_tools_has_each_test_skipped_with_the_reason() -> None:
    assert [(run.calls, run.skipped) for run in choose_smoke([], declared=[ANY], browser=True)] == [
        ((), f"the server offers no tool {name!r}")
        for name in ("pos_workflow", "search_standards", "pos_browser", "tool")
    ]


def test_the_workflow_tool_is_known_by_its_older_name() -> None:
    assert choose_smoke(["aos_workflow"], declared=(), browser=False)[0].tool == "aos_workflow"


def test_the_browser_is_tried_only_where_it_is_enabled() -> None:
    run = choose_smoke(["pos_browser"], declared=(), browser=False)[2]
    assert run == SmokeRun(
        "browser_smoke_test",
        "pos_browser",
        skipped="config.json does not enable the browser tools",
        builtin=True,
    )


@pytest.mark.parametrize(
    ("config", "tools", "wanted"),
    [
        (None, ["pos_browser"], True),
        (b"not json", ["pos_browser"], True),
        (b'{"mcp": {}}', ["pos_browser"], True),
        (b'{"mcp": {"enabled_tool_groups": 1}}', ["pos_browser"], True),
        (b'{"mcp": {"enabled_tool_groups": ["rag", "browser"]}}', ["pos_browser"], True),
        (b'{"mcp": {"enabled_tool_groups": ["rag"]}}', ["pos_browser"], False),
        (None, [], False),
    ],
)
def test_the_browser_is_wanted_where_the_configuration_enables_it_and_the_tool_is_there(
    config: bytes | None, tools: list[str], wanted: bool
) -> None:
    assert browser_wanted(config, tools) is wanted


GOOD = {"retrieval_method": "vector", "results": []}


@pytest.mark.parametrize(
    "result",
    [
        {"structuredContent": GOOD, "content": []},
        {"structuredContent": {"result": GOOD}},
        text(GOOD),
        {"structuredContent": {"other": 1}, **text(GOOD)},
        {"content": [{"type": "image"}, {"type": "text", "text": "words"}, *text(GOOD)["content"]]},
    ],
)
def test_the_answer_is_found_wherever_the_server_puts_it(result: dict[str, Any]) -> None:
    assert judge_answer(SEARCH, result, seconds=0.5) == SmokeResult(
        "rag_search_test", "search_standards", "passed", seconds=0.5
    )
    assert value_of(result, "$.retrieval_method") == "vector"


@pytest.mark.parametrize(
    ("result", "detail"),
    [
        (
            text({"retrieval_method": "grep_fallback"}),
            "$.retrieval_method is 'grep_fallback', expected 'vector'",
        ),
        (
            text({"error": "no table", "results": []}),
            "$ has no member 'retrieval_method'; it has error, results; no table",
        ),
        (
            {"isError": True, "content": [{"type": "text", "text": "Unknown tool: x"}]},
            "the tool failed: Unknown tool: x",
        ),
        ({"isError": True}, "the tool failed: it did not say why"),
        ({"isError": True, **text(GOOD)}, f"the tool failed: {json.dumps(GOOD)}"),
        ({"content": [{"type": "text", "text": "just words"}]}, "the answer is neither structured nor JSON"),
        ({}, "the answer is neither structured nor JSON"),
        ({"content": "?"}, "the answer is neither structured nor JSON"),
        (text([1]), "$ is an array, so it has no member 'retrieval_method'"),
    ],
)
def test_an_answer_that_is_not_as_expected_fails_with_what_it_was(
    result: dict[str, Any], detail: str
) -> None:
    assert judge_answer(SEARCH, result, seconds=0) == SmokeResult(
        "rag_search_test", "search_standards", "failed", detail
    )
    assert value_of(result, "$.nowhere") is None


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        (None, None, True),
        ([1], [1], True),
    ],
)
def test_values_are_compared_as_json_has_them(found: object, expected: object, same: bool) -> None:
    test = SmokeTest("ours", "tool", {}, "$.v", expected)
    assert judge_answer(test, text({"v": found}), seconds=0).status == ("passed" if same else "failed")


@pytest.mark.parametrize(
    ("answer", "status", "detail"),
    [
        ({"status": "success"}, "passed", ""),
        ({"status": "error"}, "failed", "the tool answered an error: its status is 'error'"),
        ({"error": {"code": 3}}, "failed", 'the tool answered an error: {"code":3}'),
        ({"error": None}, "passed", ""),
    ],
)
def test_a_test_without_an_expectation_passes_unless_an_error_is_answered(
    answer: object, status: str, detail: str
) -> None:
    result = judge_answer(ANY, text(answer), seconds=0)
    assert (result.status, result.detail) == (status, detail)


def test_a_path_that_is_none_fails_and_says_so() -> None:
    test = SmokeTest("ours", "tool", {}, "result", 1)
    result = judge_answer(test, text({}), seconds=0)
    assert result.detail == "the path 'result' must begin with '$', such as $.results[0].file"


@pytest.mark.parametrize(
    ("detail", "remote"),
    [
        ("Temporary failure in name resolution", True),
        ("[Errno -2] Name or service not known", True),
        ("getaddrinfo ENOTFOUND api.example.com", True),
        ("Page.goto: net::ERR_NAME_NOT_RESOLVED at https://example.com", True),
        ("HTTPSConnectionPool(host='x'): Max retries exceeded", True),
        ("no such file: net.txt", False),
        ("Executable doesn't exist at /root/.cache/ms-playwright", False),
    ],
)
def test_a_failure_for_want_of_a_network_is_told_from_others(detail: str, remote: bool) -> None:
    assert judge_failure(ANY, detail, seconds=0).remote is remote


def test_a_long_answer_is_cut() -> None:
    assert len(judge_failure(ANY, "x" * 5000, seconds=0).detail) == 303


@pytest.mark.parametrize(
    "detail",
    [
        "BrowserType.launch: Executable doesn't exist at /home/ada/.cache/ms-playwright/chromium-1187/chrome",
        "Looks like Playwright was just installed. Please run: playwright install",
        "Host system is missing dependencies to run browsers.",
    ],
)
def test_a_browser_that_was_never_installed_is_no_fault_of_the_version(detail: str) -> None:
    browser = SmokeTest("browser_smoke_test", "pos_browser", {}, "$.status", "success")
    assert judge_failure(browser, detail, seconds=0).status == "skipped"
    assert judge_failure(ANY, detail, seconds=0).status == "failed"
