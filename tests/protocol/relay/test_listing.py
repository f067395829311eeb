"""The lists that the client is given: ours after the child's, clashes resolved, changes found."""

import msgspec
import pytest
from msgspec import Raw

from mcpkeep.protocol.relay.listing import Listing, ListingChange
from mcpkeep.protocol.relay.mcp import LIST_KINDS, Era
from tests.protocol.relay.relay_script import KEEP, Json, tool

TOOLS = "tools/list"


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def listing(*, overlay: bool = True) -> Listing:
    return Listing((KEEP,), overlay=overlay)


def page(
    lists: Listing, value: Json, method: str = TOOLS, *, first: bool = True, era: Era = Era.LEGACY
) -> Json:
    given: Json = msgspec.json.decode(lists.page(method, raw(value), first=first, era=era))
    return given


def names(given: Json) -> list[str]:
    return [item["name"] for item in given["tools"]]


def test_our_tools_stand_on_the_first_page_after_the_childs() -> None:
    lists = listing()
    assert names(page(lists, {"tools": [tool("a"), tool("b")], "nextCursor": "2"})) == ["a", "b", "mcpkeep"]
    assert names(page(lists, {"tools": [tool("c")]}, first=False)) == ["c"]
    assert names(msgspec.json.decode(lists.from_memory(Era.LEGACY))) == ["a", "b", "c", "mcpkeep"]


def test_an_item_goes_on_as_it_came() -> None:
    result = Raw(b'{"tools":[{"name":"a", "x" : 1e400}],"_meta":{"y":1}}')
    given = bytes(listing().page(TOOLS, result, first=True, era=Era.LEGACY))
    assert b'{"name":"a", "x" : 1e400}' in given and b'"_meta":{"y":1}' in given


def test_other_lists_go_on_untouched_in_legacy_and_uncached_in_modern() -> None:
    result = raw({"prompts": [{"name": "p"}], "ttlMs": 60000})
    assert listing().page("prompts/list", result, first=True, era=Era.LEGACY) is result
    given = msgspec.json.decode(listing().page("prompts/list", result, first=True, era=Era.MODERN))
    assert given == {"prompts": [{"name": "p"}], "ttlMs": 0, "cacheScope": "private"}


def test_memory_answers_in_the_clients_era() -> None:
    assert set(msgspec.json.decode(listing().from_memory(Era.LEGACY))) == {"tools"}
    given = msgspec.json.decode(listing().from_memory(Era.MODERN))
    assert (given["resultType"], given["ttlMs"], given["cacheScope"]) == ("complete", 0, "private")
    given = msgspec.json.decode(listing().without_child(Era.MODERN))
    assert (given["resultType"], given["ttlMs"], given["cacheScope"]) == ("complete", 0, "private")


def test_our_tool_hides_the_childs_of_the_same_name_and_those_it_stands_for() -> None:
    lists = listing()
    given = page(lists, {"tools": [tool("mcpkeep"), tool("mcpkeep_old"), tool("a")]})
    assert names(given) == ["a", "mcpkeep"] and given["tools"][1]["title"] == "t"
    assert lists.hidden_names() == ("mcpkeep", "mcpkeep_old")
    assert "mcpkeep" in lists.own and tuple(lists.tools) == ("a",)


def test_without_overlay_the_childs_tool_stands_until_the_child_has_it_no_longer() -> None:
    lists = listing(overlay=False)
    given = page(lists, {"tools": [tool("mcpkeep"), tool("mcpkeep_old")]})
    assert names(given) == ["mcpkeep", "mcpkeep_old"] and "title" not in given["tools"][0]
    assert "mcpkeep" not in lists.own
    assert names(page(lists, {"tools": []})) == ["mcpkeep"]
    assert "mcpkeep" in lists.own


@pytest.mark.parametrize("items", [None, 7, {}, [7, None, {}, {"name": 1}, {"name": "a", "annotations": 7}]])
def test_lists_of_the_wrong_shape_do_no_harm(items: object) -> None:
    lists = listing()
    given = page(lists, {"tools": items})
    assert given["tools"][-1]["name"] == "mcpkeep"
    lists.fresh_page(TOOLS, raw({"tools": items, "nextCursor": 7}), first=True)
    assert lists.compare(TOOLS) is None


@pytest.mark.parametrize(
    ("hints", "harmless"),
    [
        ({}, False),
        ({"readOnlyHint": True}, True),
        ({"idempotentHint": True}, True),
        ({"readOnlyHint": False, "idempotentHint": False}, False),
        ({"destructiveHint": False}, False),
    ],
)
def test_only_a_tool_that_says_so_is_harmless(hints: dict[str, bool], harmless: bool) -> None:
    lists = listing()
    page(lists, {"tools": [tool("a", **hints)]})
    assert lists.is_harmless("a") is harmless
    assert not lists.is_harmless("b") and not lists.is_harmless(None)


def test_asking_for_the_same_page_again_and_again_remembers_it_once() -> None:
    lists = listing()
    page(lists, {"tools": [tool("a")], "nextCursor": "2"})
    for _ in range(5):
        page(lists, {"tools": [tool("b")]}, first=False)
    assert names(msgspec.json.decode(lists.from_memory(Era.LEGACY))) == ["a", "b", "mcpkeep"]


@pytest.mark.parametrize(
    ("method", "before", "after", "change"),
    [
        (TOOLS, [tool("a")], [tool("a")], None),
        (TOOLS, [tool("a"), tool("b")], [tool("b"), tool("a")], None),
        (TOOLS, [], [tool('q"\\')], ListingChange(LIST_KINDS[TOOLS], added=('q"\\',))),
        (TOOLS, [tool("a")], [], ListingChange(LIST_KINDS[TOOLS], removed=("a",))),
        (TOOLS, [tool("a")], [tool("a", x=True)], ListingChange(LIST_KINDS[TOOLS], changed=("a",))),
        (
            "resources/list",
            [{"name": "n", "uri": "a:1"}],
            [{"name": "n", "uri": "a:2"}],
            ListingChange(LIST_KINDS["resources/list"], added=("a:2",), removed=("a:1",)),
        ),
        (
            "resources/templates/list",
            [{"name": "n", "uriTemplate": "a:{x}"}],
            [],
            ListingChange(LIST_KINDS["resources/templates/list"], removed=("a:{x}",)),
        ),
        ("prompts/list", [{"name": "p"}], [{"name": "p"}], None),
    ],
)
def test_a_new_childs_list_is_compared_with_what_the_client_has(
    method: str, before: list[Json], after: list[Json], change: ListingChange | None
) -> None:
    lists = listing()
    member = LIST_KINDS[method].member
    page(lists, {member: before}, method)
    assert lists.given_methods() == (method,)
    assert lists.fresh_page(method, raw({member: after}), first=True) is None
    assert lists.compare(method) == change


def test_a_null_cursor_ends_a_list() -> None:
    lists = listing()
    page(lists, {"tools": [tool("a")], "nextCursor": None})
    assert lists.fresh_page(TOOLS, raw({"tools": [tool("a")], "nextCursor": None}), first=True) is None
    assert lists.compare(TOOLS) is None


def test_a_list_that_the_client_never_asked_for_is_not_compared() -> None:
    lists = listing()
    lists.fresh_page(TOOLS, raw({"tools": [tool("a")]}), first=True)
    assert lists.compare(TOOLS) is None
