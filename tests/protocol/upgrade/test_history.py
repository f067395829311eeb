"""What a parsed history says about installed files, and how git's listings are read."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.git_listing import TreeEntry, parse_log, parse_status, parse_tree
from mcpkeep.protocol.upgrade.history import Change, Commit, History, Rename, State

Files = Mapping[str, str]


def linear(*trees: Files, renames: tuple[tuple[Rename, ...], ...] = ()) -> History:
    """One commit after the other, each with its whole tree of path to object id."""
    return History(
        tuple(
            Commit(
                f"c{place}",
                place - 1,
                changes(trees[place - 1] if place else {}, tree),
                renames[place] if place < len(renames) else (),
            )
            for place, tree in enumerate(trees)
        )
    )


def changes(old: Files, new: Files) -> tuple[Change, ...]:
    return tuple(
        Change(path, old.get(path), new.get(path), "100644")
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def test_a_path_has_the_versions_of_its_earlier_names_and_not_of_its_later_ones() -> None:
    renames = ((), (Rename("a", "b"),), (Rename("b", "c"),))
    history = linear({"a": "1"}, {"b": "2"}, {"c": "3"}, renames=renames)
    assert history.names("c") == ("c", "b", "a")
    assert history.successors("a") == ("b", "c")
    assert [bool(history.modes("c", oid)) for oid in "123"] == [True, True, True]
    assert [bool(history.modes("a", oid)) for oid in "123"] == [True, False, False]


def test_names_that_go_round_in_a_circle_end() -> None:
    history = linear(
        {"a": "1"}, {"b": "1"}, {"a": "1"}, renames=((), (Rename("a", "b"),), (Rename("b", "a"),))
    )
    assert history.names("a") == ("a", "b")
    assert history.successors("a") == ("b",)


def test_the_newest_successor_comes_first() -> None:
    renames = ((), (Rename("a", "b"),), (), (Rename("a", "c"),))
    history = linear({"a": "1"}, {"b": "1"}, {"a": "1", "b": "1"}, {"b": "1", "c": "1"}, renames=renames)
    assert history.successors("a") == ("c", "b")


@pytest.mark.parametrize(
    ("standing", "place"),
    [
        ({"a": ("1",), "b": ("1",)}, 0),
        ({"a": ("2",), "b": ("1",)}, 1),
        ({"a": ("2",), "b": ("2",)}, 2),
        ({"a": ("mine",), "b": ("2",)}, 2),
        ({"a": ("mine", "2"), "b": ("1",)}, 1),
        # All commits have c but the first two; a deletion of it is not told from its absence.
        ({"a": ("2",), "b": ("2",), "c": ()}, 2),
        ({"a": ("2",), "b": ("2",), "c": ("mine",)}, 2),
        ({"a": ("2",), "b": ("2",), "c": ("3",)}, 3),
        ({"a": ("mine",), "b": ("mine",)}, None),
        ({"a": (), "b": ()}, None),
        ({}, None),
    ],
)
def test_the_agreed_commit_is_the_one_with_most_unedited_files(
    standing: dict[str, tuple[str, ...]], place: int | None
) -> None:
    history = linear(
        {"a": "1", "b": "1"},
        {"a": "2", "b": "1"},
        {"a": "2", "b": "2"},
        {"a": "2", "b": "2", "c": "3"},
        {"a": "2", "b": "2", "c": "4"},
    )
    assert history.agreed(standing) == place


def test_branches_are_counted_from_their_own_parents() -> None:
    first, left, right = {"a": "1", "b": "1"}, {"a": "2", "b": "1"}, {"a": "1", "b": "2"}
    both = {"a": "2", "b": "2"}
    history = History(
        (
            Commit("0", -1, changes({}, first), ()),
            Commit("1", 0, changes(first, left), ()),
            Commit("2", 0, changes(first, right), ()),
            Commit("3", 1, changes(left, both), ()),
        )
    )
    for place, tree in enumerate((first, left, right, both)):
        assert history.agreed({path: (oid,) for path, oid in tree.items()}) == place
        assert history.tree(place) == {path: State(oid, "100644") for path, oid in tree.items()}
    assert history.trunk(2) == {"a", "b"}


trees = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123")), min_size=1, max_size=6)


@given(trees, st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123")))
def test_the_agreed_commit_is_found_as_by_comparing_every_tree(
    trees: list[dict[str, str]], local: dict[str, str]
) -> None:
    history = linear(*trees)
    for place, tree in enumerate(trees):
        assert {path: state.oid for path, state in history.tree(place).items()} == tree
    scores = [
        (len(tree.items() & local.items()), -len(tree.keys() - local.keys()), -place)
        for place, tree in enumerate(trees)
    ]
    best = max(scores)
    standing = {path: (local[path],) if path in local else () for path in "abcd"}
    assert history.agreed(standing) == (-best[2] if best[0] else None)


def test_a_path_that_goes_and_comes_in_one_commit_is_there() -> None:
    swapped = (
        Change("a", "1", None, "100644"),
        Change("b", None, "1", "100644"),
        Change("b", "2", None, "100644"),
        Change("c", None, "2", "100644"),
    )
    history = History(
        (
            Commit("0", -1, changes({}, {"a": "1", "b": "2"}), ()),
            Commit("1", 0, swapped, ()),
        )
    )
    assert history.tree(1) == {"b": State("1", "100644"), "c": State("2", "100644")}


ZERO, ONE, TWO = "0" * 40, "1" * 40, "2" * 40


def test_a_log_is_read_with_renames_deletions_and_what_is_not_installed() -> None:
    first, second, third = "a" * 40, "b" * 40, "c" * 40
    log = "\0".join(
        [
            f"\x01{first} ",
            f"\n:000000 100644 {ZERO} {ONE} A",
            "mcp_server/x\ny.py",
            f":000000 120000 {ZERO} {TWO} A",
            "scripts/to",
            f":000000 100644 {ZERO} {ONE} A",
            "mcp_server/__pycache__/x.pyc",
            f"\x01{second} {first}",
            f"\x01{third} {second} {first}",
            f"\n:100644 100755 {ONE} {TWO} R090",
            "mcp_server/x\ny.py",
            "universal/usage/y.md",
            f":120000 000000 {TWO} {ZERO} D",
            "scripts/to",
            f":100644 100664 {ONE} {ONE} R100",
            "mcp_server/a.pyc",
            "mcp_server/a.py",
            "",
        ]
    )
    assert parse_log(log.encode()) == (
        Commit(
            first,
            -1,
            (Change("mcp_server/x\ny.py", None, ONE, "100644"), Change("scripts/to", None, TWO, "120000")),
            (),
        ),
        Commit(second, 0, (), ()),
        Commit(
            third,
            1,
            (
                Change("mcp_server/x\ny.py", ONE, None, "100644"),
                Change("usage/y.md", None, TWO, "100755"),
                Change("scripts/to", TWO, None, "120000"),
                Change("mcp_server/a.py", None, ONE, "100644"),
            ),
            (Rename("mcp_server/x\ny.py", "usage/y.md"),),
        ),
    )


def test_a_log_of_nothing_is_empty() -> None:
    assert parse_log(b"") == ()


def test_a_name_that_is_not_utf8_is_not_in_the_history() -> None:
    log = f"\x01{ONE} \0:000000 100644 {ZERO} {ONE} A\0".encode() + b"scripts/\xff\0"
    assert parse_log(log) == (Commit(ONE, -1, (), ()),)


def test_a_tree_is_read_with_links_programs_and_submodules() -> None:
    lines = (
        f"100644 blob {ONE}      12\ta\tb",
        f"100775 blob {ONE}       3\tx",
        f"120000 blob {TWO}       5\tto",
        f"160000 commit {TWO}       -\tm",
        f"100644 blob {ONE}       1\t\udcff",
    )
    listing = "".join(line + "\0" for line in lines).encode(errors="surrogateescape")
    assert list(parse_tree(listing)) == [
        TreeEntry("a\tb", "100644", ONE, 12),
        TreeEntry("x", "100755", ONE, 3),
        TreeEntry("to", "120000", TWO, 5),
        TreeEntry("m", None, TWO, 0),
        TreeEntry("\udcff", "100644", ONE, 1),
    ]


def test_a_status_is_read_with_renames() -> None:
    listing = b" M a b\0R  new\0old\0?? \xff\0"
    assert list(parse_status(listing)) == ["a b", "new", "\\xff"]
