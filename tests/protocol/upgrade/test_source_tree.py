"""Judgements of a commit's tree that need no repository."""

import pytest

from mcpkeep.protocol.upgrade.git_listing import TreeEntry
from mcpkeep.protocol.upgrade.plan import Version
from mcpkeep.protocol.upgrade.source_tree import (
    LARGEST_FILE,
    LARGEST_TREE,
    enumerate_some,
    judge_tree,
    read_version,
)


def entry(path: str, size: int = 1, oid: str = "1") -> TreeEntry:
    return TreeEntry(path, "100644", oid, size)


def test_an_honest_tree_is_mapped_to_where_it_is_installed() -> None:
    tree = judge_tree(
        [entry("mcp_server/a.py"), entry("universal/standards/b"), entry("universal/templates/c")], {}, {}
    )
    assert tree.files == {
        "mcp_server/a.py": Version("1", "100644", 1),
        "standards/universal/b": Version("1", "100644", 1),
    }
    assert (tree.problems, tree.warnings, tree.version) == ((), (), None)


def test_a_file_over_the_limit_is_named_with_its_size() -> None:
    tree = judge_tree([entry("mcp_server/a", LARGEST_FILE), entry("mcp_server/b", LARGEST_FILE + 1)], {}, {})
    assert [problem.text for problem in tree.problems] == [
        f"paths of the source are larger than {LARGEST_FILE} bytes: 'mcp_server/b' ({LARGEST_FILE + 1} bytes)"
    ]


def test_a_tree_over_the_limit_is_refused() -> None:
    count = LARGEST_TREE // LARGEST_FILE
    files = [entry(f"mcp_server/{number}", LARGEST_FILE) for number in range(count)]
    assert judge_tree(files, {}, {}).problems == ()
    (problem,) = judge_tree([*files, entry("mcp_server/more")], {}, {}).problems
    assert problem.text == f"the source's files come to {LARGEST_TREE + 1} bytes, more than {LARGEST_TREE}"


def test_a_manifest_that_cannot_be_read_is_a_warning() -> None:
    tree = judge_tree([entry("universal/.universal-manifest.json", oid="m")], {"m": b"{"}, {})
    assert tree.problems == ()
    assert tree.warnings == (
        "the source's universal/.universal-manifest.json cannot be read; it is not needed",
    )


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b"1.2.3", "1.2.3"),
        (b"\n\n v2 \nmore", "v2"),
        (b"prAxIs OS\nversion=3\n", "3"),
        (b"", None),
        (b" \n", None),
        (b"\x00", None),
        (b"x" * 65, None),
    ],
)
def test_a_version_file_is_read_with_care(data: bytes, version: str | None) -> None:
    assert read_version(data) == version


def test_of_many_names_the_first_three_are_told() -> None:
    assert enumerate_some(["a"]) == "'a'"
    assert enumerate_some("abcde") == "'a', 'b', 'c' and 2 more"
