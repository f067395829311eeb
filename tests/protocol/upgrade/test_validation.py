"""The verdicts of phases 3 and 4."""

from typing import Any

import msgspec
import pytest

from mcpkeep.protocol.upgrade.proof import Proof, SmokeResult, compare_tools, tool_digests
from mcpkeep.protocol.upgrade.validation import (
    LiveFacts,
    Verdict,
    judge_live,
    judge_proof,
    notable_lines,
    outcome_of,
)

TOOLS = {"search_standards": "1", "pos_workflow": "2"}
PASSED = (
    SmokeResult("workflow_engine_test", "pos_workflow", "passed"),
    SmokeResult("rag_search_test", "search_standards", "passed"),
)
PROOF = Proof("s", "1", "/r/mcp_server/__init__.py", TOOLS, PASSED, "carried", 1.0)
LIVE = LiveFacts("/r", "/r/mcp_server/__init__.py", TOOLS, PASSED, watchers=True, index_current=True)


def but(value: Any, **changes: object) -> Any:
    return msgspec.structs.replace(value, **changes)


def texts(verdict: Verdict) -> list[str]:
    return [problem.text for problem in verdict.failures]


def test_a_proof_as_good_as_the_old_server_is_healthy() -> None:
    verdict = judge_proof(PROOF, old_tools=TOOLS, required=["search_standards"])
    assert verdict == Verdict((), ())
    assert verdict.healthy


def test_other_tools_than_the_old_server_has_are_facts() -> None:
    proof = but(PROOF, tools={"search_standards": "9", "new": "3"})
    assert judge_proof(proof, old_tools=TOOLS, required=["search_standards"]) == Verdict(
        (), ("tools added: new", "tools removed: pos_workflow", "tools changed: search_standards")
    )


def test_where_the_old_tools_are_not_known_nothing_is_said_of_them() -> None:
    assert judge_proof(PROOF, old_tools={}, required=[]) == Verdict((), ())


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ({}, "the server offers no tool at all"),
        ({"pos_workflow": "2"}, "the tool 'search_standards' is gone, and required_tools names it"),
    ],
)
def test_a_required_tool_or_every_tool_gone_fails(tools: dict[str, str], text: str) -> None:
    verdict = judge_proof(but(PROOF, tools=tools), old_tools=TOOLS, required=["search_standards"])
    assert texts(verdict) == [text]
    assert not verdict.healthy


def test_a_failed_test_fails_and_a_skipped_one_is_a_fact() -> None:
    smoke = (
        SmokeResult("rag_search_test", "search_standards", "failed", "grep_fallback"),
        SmokeResult("browser_smoke_test", "pos_browser", "skipped", "not enabled"),
    )
    verdict = judge_proof(but(PROOF, smoke=smoke), old_tools=TOOLS, required=[])
    assert texts(verdict) == [
        "the test 'rag_search_test' of the tool 'search_standards' failed: grep_fallback"
    ]
    assert verdict.facts == ("the test 'browser_smoke_test' was skipped: not enabled",)


def test_a_declared_test_that_failed_for_want_of_a_network_is_a_fact_and_a_built_in_one_fails() -> None:
    smoke = (
        SmokeResult("ours", "weather", "failed", "getaddrinfo", remote=True),
        SmokeResult("rag_search_test", "search_standards", "failed", "getaddrinfo", remote=True),
    )
    verdict = judge_proof(but(PROOF, smoke=smoke), old_tools=TOOLS, required=[])
    assert texts(verdict) == ["the test 'rag_search_test' of the tool 'search_standards' failed: getaddrinfo"]
    assert verdict.facts == ("the test 'ours' failed for want of a network: getaddrinfo",)


def test_a_live_server_that_does_what_it_proved_is_healthy() -> None:
    assert judge_live(LIVE, expected_tools=TOOLS, required=["pos_workflow"]) == Verdict((), ())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"code_path": "/elsewhere/mcp_server"},
            "the live server loads its code from '/elsewhere/mcp_server'",
        ),
        ({"code_path": "/r2/mcp_server"}, "the live server loads its code from '/r2/mcp_server'"),
        (
            {"tools": {"pos_workflow": "2"}},
            "tools that the candidate had are gone from the live server: search",
        ),
        (
            {"damaged": tuple("abcdefg")},
            "7 installed files are not what was planned: a, b, c, d, e and 2 more",
        ),
        ({"watchers": False}, "the server watches no content folder, so that edits would not be found"),
        ({"index_current": False}, "the search index does not cover the installed content, so that edits"),
        ({"unit_tests": False}, "the unit tests failed"),
        ({"smoke": (SmokeResult("ours", "t", "failed", "x"),)}, "the test 'ours' of the tool 't' failed: x"),
    ],
)
def test_a_live_server_that_falls_short_fails(changes: dict[str, object], text: str) -> None:
    verdict = judge_live(
        but(LIVE, smoke=changes.get("smoke", PASSED), **{k: v for k, v in changes.items() if k != "smoke"}),
        expected_tools=TOOLS,
        required=[],
    )
    assert len(verdict.failures) == 1
    assert verdict.failures[0].text.startswith(text)
    assert verdict.failures[0].remedy


def test_what_cannot_be_measured_is_a_fact() -> None:
    verdict = judge_live(but(LIVE, watchers=None), expected_tools=TOOLS, required=[])
    assert verdict == Verdict(
        (), ("could not be measured on this system: whether the server watches no content folder",)
    )


def test_without_a_search_neither_watchers_nor_index_matter() -> None:
    live = but(LIVE, smoke=(), watchers=False, index_current=False)
    assert judge_live(live, expected_tools=TOOLS, required=[]).healthy


def test_errors_in_the_log_are_facts() -> None:
    live = but(LIVE, stderr=("INFO all is well", "Traceback (most recent call last):", "ValueError: x"))
    assert judge_live(live, expected_tools=TOOLS, required=[]) == Verdict(
        (), ("the server wrote 2 lines about errors since the switch",)
    )


def test_notable_lines_are_those_about_errors() -> None:
    lines = ("2026 - ERROR - no", "INFO - 0 errors", "KeyError: 'x'", "CRITICAL", "  File x")
    assert notable_lines(lines) == ("2026 - ERROR - no", "KeyError: 'x'", "CRITICAL")


def test_a_test_that_was_not_made_counts_as_skipped() -> None:
    assert [outcome_of(PASSED, name) for name in ("rag_search_test", "ours")] == ["passed", "skipped"]


def test_a_tool_is_changed_where_what_a_client_is_told_of_it_is() -> None:
    old = tool_digests(
        [
            {"name": "same", "description": "d", "inputSchema": {"a": 1, "b": 2}, "outputSchema": None},
            {"name": "schema", "inputSchema": {"type": "object"}},
            {"name": "note", "annotations": {"readOnlyHint": True}},
            {"description": "nameless"},
        ]
    )
    new = tool_digests(
        [
            {"name": "same", "inputSchema": {"b": 2, "a": 1}, "description": "d", "title": "T"},
            {"name": "schema", "inputSchema": {"type": "object", "required": []}},
            {"name": "note", "annotations": {"readOnlyHint": False}},
        ]
    )
    assert old.keys() == new.keys() == {"same", "schema", "note"}
    assert compare_tools(old, new).changed == ("note", "schema")
