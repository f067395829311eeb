"""Smoke tests: which ones are made of a server, and whether an answer is what was expected."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import cast

import msgspec

from mcpkeep.protocol.upgrade.jsonpath import JsonPathError, NoSuchValue, find_value
from mcpkeep.protocol.upgrade.proof import SmokeResult, SmokeTest

__all__ = [
    "BROWSER_TEST",
    "CALL_LIMIT",
    "SEARCH_TEST",
    "WORKFLOW_TEST",
    "SmokeRun",
    "browser_wanted",
    "choose_smoke",
    "judge_answer",
    "judge_failure",
    "value_of",
]

WORKFLOW_TEST = "workflow_engine_test"
SEARCH_TEST = "rag_search_test"
BROWSER_TEST = "browser_smoke_test"
"""The built-in tests, by the evidence of phase 4 that they give."""

CALL_LIMIT = 60.0
"""Seconds. The slowest first search of the real server took 0.7; a browser's first start takes several."""

_BROWSER_SESSION = "mcpkeep-smoke-test"

_REMOTE = re.compile(
    r"name resolution|getaddrinfo|name or service not known|nodename nor servname|ENOTFOUND|EAI_AGAIN"
    r"|net::ERR_(?:NAME|INTERNET|NETWORK|CONNECTION|PROXY|ADDRESS)|network is unreachable|no route to host"
    r"|max retries exceeded|ProxyError|SSLCertVerificationError",
    re.IGNORECASE,
)
_NO_BROWSER = re.compile(
    r"executable doesn't exist|playwright install|host system is missing dependencies"
    r"|error while loading shared libraries",
    re.IGNORECASE,
)
"""What playwright says where its browser, or what that needs of the system, is not there."""

_DETAIL_LIMIT = 300


class SmokeRun(msgspec.Struct, frozen=True):
    """One test: calls that are made in order up to the first that fails, and one that is made in any case."""

    name: str
    tool: str
    calls: tuple[SmokeTest, ...] = ()
    closing: SmokeTest | None = None
    skipped: str = ""
    """Why it is not made; empty where it is."""
    builtin: bool = False


def browser_wanted(config: bytes | None, tools: Collection[str]) -> bool:
    """Whether config.json enables the browser group, as its absence does, and the server offers the tool."""
    return "pos_browser" in tools and "browser" in _enabled_groups(config)


def choose_smoke(
    tools: Collection[str], *, declared: Sequence[SmokeTest], browser: bool
) -> tuple[SmokeRun, ...]:
    """The built-in tests, then the declared ones; those whose tool is not there say so.

    They are for the server itself: its own `pos_workflow`, not the one that clients see in its place.
    """
    return (
        _workflow_run(tools),
        _search_run(tools),
        _browser_run(tools, browser),
        *(
            SmokeRun(test.name, test.tool, calls=(test,))
            if test.tool in tools
            else SmokeRun(test.name, test.tool, skipped=_no_tool(test.tool))
            for test in declared
        ),
    )


def judge_answer(test: SmokeTest, result: Mapping[str, object], *, seconds: float) -> SmokeResult:
    """Whether the result of `tools/call` is what the test expects.

    The answer is the structured content, or what JSON the text holds; where the result was wrapped for
    want of an object schema, what was wrapped.
    """
    answers = _answers(result)
    said = _error_text(result, answers)
    if result.get("isError") is True:
        return judge_failure(test, f"the tool failed: {said or 'it did not say why'}", seconds=seconds)
    if not test.path:
        if said:
            return judge_failure(test, f"the tool answered an error: {said}", seconds=seconds)
        return SmokeResult(test.name, test.tool, "passed", seconds=seconds)
    missing = "the answer is neither structured nor JSON"
    for answer in answers:
        try:
            found = find_value(answer, test.path)
        except JsonPathError as error:
            return judge_failure(test, str(error), seconds=seconds)
        except NoSuchValue as error:
            missing = str(error)
            continue
        if _same(found, test.value):
            return SmokeResult(test.name, test.tool, "passed", seconds=seconds)
        detail = f"{test.path} is {found!r}, expected {test.value!r}"
        return judge_failure(test, f"{detail}; {said}" if said else detail, seconds=seconds)
    return judge_failure(test, f"{missing}; {said}" if said else missing, seconds=seconds)


def judge_failure(test: SmokeTest, detail: str, *, seconds: float) -> SmokeResult:
    """A test that failed, and whether the network is to blame.

    A browser that was never downloaded is no fault of the version: the post-install step that failed is told.
    """
    short = detail if len(detail) <= _DETAIL_LIMIT else detail[:_DETAIL_LIMIT] + "..."
    if test.name == BROWSER_TEST and _NO_BROWSER.search(detail):
        return SmokeResult(test.name, test.tool, "skipped", f"no browser is installed: {short}", seconds)
    return SmokeResult(test.name, test.tool, "failed", short, seconds, remote=bool(_REMOTE.search(detail)))


def value_of(result: Mapping[str, object], path: str) -> object:
    """What stands at a JSON path of the answer in a result of `tools/call`; None where nothing does."""
    for answer in _answers(result):
        with suppress(NoSuchValue):
            return find_value(answer, path)
    return None


def _workflow_run(tools: Collection[str]) -> SmokeRun:
    # aos_workflow: as it was called before 2025-10-27. Older servers have no tool that lists workflows.
    tool = next((name for name in ("pos_workflow", "aos_workflow") if name in tools), None)
    if tool is None:
        return SmokeRun(WORKFLOW_TEST, "pos_workflow", skipped=_no_tool("pos_workflow"), builtin=True)
    test = SmokeTest(WORKFLOW_TEST, tool, {"action": "list_workflows"}, "$.status", "success")
    return SmokeRun(WORKFLOW_TEST, tool, calls=(test,), builtin=True)


def _search_run(tools: Collection[str]) -> SmokeRun:
    tool = "search_standards"
    if tool not in tools:
        return SmokeRun(SEARCH_TEST, tool, skipped=_no_tool(tool), builtin=True)
    arguments = {"query": "how to write tests", "n_results": 1}
    test = SmokeTest(SEARCH_TEST, tool, arguments, "$.retrieval_method", "vector")
    return SmokeRun(SEARCH_TEST, tool, calls=(test,), builtin=True)


def _browser_run(tools: Collection[str], enabled: bool) -> SmokeRun:
    tool = "pos_browser"
    if tool not in tools or not enabled:
        why = "config.json does not enable the browser tools" if tool in tools else _no_tool(tool)
        return SmokeRun(BROWSER_TEST, tool, skipped=why, builtin=True)
    session = {"session_id": _BROWSER_SESSION}
    opening = SmokeTest(
        BROWSER_TEST, tool, {"action": "navigate", "url": "about:blank", **session}, "$.status", "success"
    )
    closing = SmokeTest(BROWSER_TEST, tool, {"action": "close", **session}, "$.status", "success")
    return SmokeRun(BROWSER_TEST, tool, calls=(opening,), closing=closing, builtin=True)


def _no_tool(tool: str) -> str:
    return f"the server offers no tool {tool!r}"


def _enabled_groups(config: bytes | None) -> Sequence[object]:
    """Upstream's default where config.json is absent, damaged, or does not say."""
    default = ("rag", "workflow", "browser")
    try:
        root: object = msgspec.json.decode(config) if config is not None else {}
        groups = find_value(root, "$.mcp.enabled_tool_groups")
    except (msgspec.DecodeError, NoSuchValue):
        return default
    return cast("list[object]", groups) if isinstance(groups, list) else default


def _answers(result: Mapping[str, object]) -> tuple[object, ...]:
    found: list[object] = []
    structured = result.get("structuredContent")
    if isinstance(structured, Mapping):
        found.append(cast("object", structured))
        members = cast("Mapping[str, object]", structured)
        if list(members) == ["result"]:
            found.append(members["result"])
    for text in _texts(result):
        try:
            found.append(msgspec.json.decode(text))
        except (msgspec.DecodeError, UnicodeEncodeError):
            continue
    return tuple(found)


def _texts(result: Mapping[str, object]) -> list[str]:
    content = result.get("content")
    if not isinstance(content, list):
        return []
    texts = [
        cast("Mapping[str, object]", item).get("text")
        for item in cast("list[object]", content)
        if isinstance(item, Mapping)
    ]
    return [text for text in texts if isinstance(text, str)]


def _error_text(result: Mapping[str, object], answers: Sequence[object]) -> str:
    """What the answer says went wrong, in its members or, where the tool failed, its text."""
    for answer in answers:
        if isinstance(answer, Mapping):
            members = cast("Mapping[str, object]", answer)
            error = members.get("error")
            if error:
                return error if isinstance(error, str) else msgspec.json.encode(error).decode()
            if members.get("status") == "error":
                return "its status is 'error'"
    return " ".join(_texts(result)).strip() if result.get("isError") is True else ""


def _same(found: object, expected: object) -> bool:
    """As JSON has it: 1 is 1.0, but true is not 1."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    return found == expected
