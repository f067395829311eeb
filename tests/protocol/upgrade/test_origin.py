"""Where an installed file comes from: each evidence in its order; and which file is paired with which."""

from collections.abc import Mapping

import pytest

from mcpkeep.protocol.upgrade.history import Change, Commit, History, Rename, State
from mcpkeep.protocol.upgrade.origin import Evidence, Local, Origin, find_origin
from mcpkeep.protocol.upgrade.pairing import Obstacles, Pair, pair_up
from mcpkeep.protocol.upgrade.plan import Mode, Version

PATH = "usage/a.md"
OLD, NEW = "old", "new"
HISTORY = History(
    (
        Commit("0", -1, (Change(PATH, None, OLD, "100644"),), ()),
        Commit("1", 0, (Change(PATH, OLD, NEW, "100755"),), ()),
        Commit("2", 1, (Change(PATH, NEW, NEW, "100644"),), ()),
    )
)


def local(*forms: str, mode: Mode = "100644") -> Local:
    return Local(Version(forms[0], mode, 1), forms, tuple(1 for _ in forms))


def version(oid: str, mode: Mode = "100644") -> Version:
    return Version(oid, mode, 1)


def evidence(
    *,
    agreed: Mapping[str, State] | None = None,
    baseline: Mapping[str, Local] | None = None,
    complete: bool = False,
    manifest: str | None = None,
    standing: str | None = None,
    upstream: str | None = None,
) -> Evidence:
    def checksum(_: str) -> str | None:
        return standing

    def upstream_checksum(_: str) -> str | None:
        return upstream

    return Evidence(
        history=HISTORY,
        agreed=agreed or {},
        baseline=(baseline or {}).get,
        baseline_parts=frozenset(["usage"] if complete else []),
        manifest={} if manifest is None else {PATH: manifest},
        checksum=checksum,
        upstream_checksum=upstream_checksum,
    )


def find(here: Local | None, upstream: Version | None, known: Evidence) -> Origin:
    return find_origin(PATH, here, upstream, known, names=(PATH, "usage/former.md"))


@pytest.mark.parametrize(
    ("here", "base"),
    [
        (local(OLD), State(OLD, "100644")),
        (local("crlf", OLD), State(OLD, "100644")),
        (local(NEW), State(NEW, "100644")),
        (local(NEW, mode="100755"), State(NEW, "100755")),
        (local(OLD, mode="100755"), State(OLD, "100644")),
    ],
)
def test_a_version_of_the_history_is_the_base_with_the_mode_it_had_there(here: Local, base: State) -> None:
    known = evidence(baseline={PATH: local("baseline")}, agreed={PATH: State("agreed", "100644")})
    assert find(here, version("other"), known) == Origin(base, True, "history")


def test_what_upstream_has_already_was_something_else_before_if_the_agreed_commit_says_so() -> None:
    known = evidence(agreed={PATH: State(OLD, "100644")})
    assert find(local(NEW), version(NEW), known) == Origin(State(OLD, "100644"), True, "agreed")
    assert find(local(NEW), version(NEW), evidence()) == Origin(State(NEW, "100644"), True, "history")


def test_the_baseline_comes_before_the_manifest_and_the_agreed_commit() -> None:
    known = evidence(
        baseline={PATH: local("kept", mode="100755")},
        agreed={PATH: State("agreed", "100644")},
        manifest="sum",
        standing="sum",
    )
    assert find(local("mine"), version(NEW), known) == Origin(State("kept", "100755"), True, "baseline")
    assert find(None, version(NEW), known) == Origin(State("kept", "100755"), True, "baseline")


def test_a_baseline_with_other_line_endings_stands_for_the_version_it_is() -> None:
    known = evidence(baseline={PATH: local("kept-crlf", OLD)})
    assert find(local("mine"), version(NEW), known).base == State(OLD, "100644")
    known = evidence(baseline={PATH: local("kept-crlf", "kept")})
    assert find(local("mine", "kept"), version(NEW), known).base == State("kept", "100644")


def test_a_baseline_under_the_former_name_counts() -> None:
    known = evidence(baseline={"usage/former.md": local("kept")})
    assert find(None, version(NEW), known) == Origin(State("kept", "100644"), True, "baseline")


def test_a_manifest_tells_an_unedited_file_and_an_unchanged_upstream() -> None:
    mine = State("mine", "100644")
    assert find(local("mine"), version(NEW), evidence(manifest="s", standing="s")) == Origin(
        mine, True, "manifest"
    )
    known = evidence(manifest="s", standing="t", upstream="s", agreed={PATH: State("agreed", "100644")})
    assert find(local("mine"), version("up"), known) == Origin(State("up", "100644"), True, "manifest")
    assert find(None, None, evidence(manifest="s")) == Origin(None, True, "manifest")


def test_the_agreed_commit_comes_last_and_not_where_the_baseline_is_complete() -> None:
    agreed = {"usage/former.md": State("agreed", "100644")}
    assert find(local("mine"), version(NEW), evidence(agreed=agreed)) == Origin(
        State("agreed", "100644"), True, "agreed"
    )
    assert find(local("mine"), version(NEW), evidence(agreed=agreed, complete=True)) == Origin(
        None, False, "nowhere"
    )


@pytest.mark.parametrize(
    ("here", "there", "renames", "pairs"),
    [
        ("ab", "bc", [], [Pair("a"), Pair("b"), Pair("c")]),
        ("a", "b", [("a", "b")], [Pair("b", "a")]),
        ("a", "c", [("a", "b"), ("b", "c")], [Pair("c", "a")]),
        # The new name is there already, the old name is still upstream, or two were made one.
        ("ab", "b", [("a", "b")], [Pair("a"), Pair("b")]),
        ("a", "ab", [("a", "b")], [Pair("a"), Pair("b")]),
        ("ab", "c", [("a", "c"), ("b", "c")], [Pair("b"), Pair("c", "a")]),
        ("a", "bc", [("a", "b"), ("a", "c")], [Pair("b"), Pair("c", "a")]),
    ],
)
def test_files_are_paired_by_name_and_by_rename(
    here: str, there: str, renames: list[tuple[str, str]], pairs: list[Pair]
) -> None:
    history = History(tuple(Commit(str(n), n - 1, (), (Rename(*r),)) for n, r in enumerate(renames)))
    assert pair_up(set(here), set(there), history) == tuple(pairs)


def test_what_leaves_in_the_same_upgrade_is_in_nobodys_way() -> None:
    files = {"a": False, "b/c": False, "Read": False, "to": True}
    staying = Obstacles(files, {"b"}, ())
    assert staying.of("a/x") == "a file of yours stands at 'a', where upstream has a folder"
    assert staying.of("to/x/y") == "a link of yours stands at 'to', where upstream has a folder"
    assert staying.of("b") == "a folder of yours stands where upstream has a file"
    assert staying.of("read") is not None and staying.of("Read") is None and staying.of("b/d") is None
    leaving = Obstacles(files, {"b"}, files)
    assert [leaving.of(path) for path in ("a/x", "to/x/y", "b", "read")] == [None] * 4
