"""The nine cases over the whole product of what may stand on the three sides."""

import itertools

import pytest

from mcpkeep.protocol.upgrade.case import decide, explain, merge_modes, merge_states, needs_merge
from mcpkeep.protocol.upgrade.history import State
from mcpkeep.protocol.upgrade.plan import Case, Mode

PLAIN: Mode = "100644"
PROGRAM: Mode = "100755"
LINK: Mode = "120000"
SIDES = [None, *(State(oid, mode) for oid in "abc" for mode in (PLAIN, PROGRAM, LINK))]
MERGED = State("merged", PLAIN)


def kind(state: State) -> bool:
    return state.mode == LINK


def expected(
    local: State | None, base: State | None, upstream: State | None, installed: bool, merges: bool
) -> Case | None:
    """The contract's table, written down a second time, without a word from the implementation."""
    if local is None:
        if upstream is None:
            return None
        return Case.STAYS_DELETED if installed or base is not None else Case.ADD
    if upstream is None:
        return Case.REMOVE if base == local else Case.KEEP
    if local == upstream:
        return Case.UNCHANGED if base is None or base == local else Case.CONVERGED
    if base is None:
        same = local.oid == upstream.oid and kind(local) == kind(upstream)
        return Case.KEEP if same else Case.CONFLICT
    if local == base:
        return Case.UPDATE
    if upstream == base:
        return Case.KEEP
    contents = [(state.oid, kind(state)) for state in (local, base, upstream)]
    if contents[0] == contents[1]:
        # Only the bit was set here: upstream's content, unless that is a link, and the bit.
        result = upstream if kind(upstream) else State(upstream.oid, local.mode)
    elif contents[1] == contents[2]:
        result = (
            local
            if kind(local)
            else State(local.oid, upstream.mode if local.mode == base.mode else local.mode)
        )
    elif contents[0] == contents[2]:
        # Both replaced a link by the same text: then there is no telling, and the user's bit stays.
        other = upstream.mode if local.mode == base.mode else local.mode
        result = local if kind(local) else State(local.oid, other)
    else:
        texts = LINK not in (local.mode, base.mode, upstream.mode)
        return Case.MERGE if texts and merges else Case.CONFLICT
    return Case.KEEP if result == local else Case.MERGE


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("merges", [False, True])
def test_every_combination_of_the_three_sides_is_decided_as_the_table_says(
    installed: bool, merges: bool
) -> None:
    wrong: list[object] = []
    for local, base, upstream in itertools.product(SIDES, repeat=3):
        merged = MERGED if merges and needs_merge(local, base, upstream) else None
        decided = decide(local, base, upstream, installed=installed, merged=merged)
        case = None if decided is None else decided[0]
        if case is not expected(local, base, upstream, installed, merges):
            wrong.append((local, base, upstream, case))
    assert wrong == []


def test_a_merge_says_what_it_comes_to_and_nothing_else_does() -> None:
    for local, base, upstream in itertools.product(SIDES, repeat=3):
        merged = MERGED if needs_merge(local, base, upstream) else None
        decided = decide(local, base, upstream, merged=merged)
        if decided is not None:
            assert (decided[1] is not None) == (decided[0] is Case.MERGE)


def test_a_file_that_nobody_edited_follows_its_new_name() -> None:
    for base, upstream in itertools.product(SIDES[1:], repeat=2):
        assert decide(base, base, upstream, moved=True) == (Case.UPDATE, None)
        assert decide(upstream, base, upstream, moved=True) == (Case.UPDATE, None)


def test_an_edited_file_takes_its_edits_to_the_new_name() -> None:
    local, base = State("mine", PLAIN), State("old", PLAIN)
    assert decide(local, base, base, moved=True) == (Case.MERGE, local)
    assert decide(local, base, State("old", PROGRAM), moved=True) == (Case.MERGE, State("mine", PROGRAM))
    assert decide(local, base, State("new", PLAIN), moved=True, merged=MERGED) == (Case.MERGE, MERGED)
    assert decide(local, base, State("new", PLAIN), moved=True) == (Case.CONFLICT, None)
    assert decide(local, None, State("new", PLAIN), moved=True) == (Case.CONFLICT, None)
    assert decide(local, None, State("mine", PROGRAM), moved=True) == (Case.MERGE, local)


def test_an_edit_that_has_upstreams_change_already_is_kept_without_a_write() -> None:
    local, base, upstream = State("both", PLAIN), State("old", PLAIN), State("new", PLAIN)
    assert decide(local, base, upstream, merged=local) == (Case.KEEP, None)


@pytest.mark.parametrize(
    ("local", "base", "upstream", "result"),
    [
        (PLAIN, PLAIN, PLAIN, PLAIN),
        (PROGRAM, PLAIN, PLAIN, PROGRAM),
        (PLAIN, PLAIN, PROGRAM, PROGRAM),
        (PROGRAM, PLAIN, PROGRAM, PROGRAM),
        (PLAIN, PROGRAM, PROGRAM, PLAIN),
        (PROGRAM, PROGRAM, PLAIN, PLAIN),
        (PLAIN, PROGRAM, PLAIN, PLAIN),
    ],
)
def test_the_executable_bit_is_whose_change_it_was(
    local: Mode, base: Mode, upstream: Mode, result: Mode
) -> None:
    assert merge_modes(State("x", local), State("y", base), State("z", upstream)) == result
    assert merge_states(State("x", local), State("x", base), State("z", upstream)) == State("z", result)


def test_links_are_never_merged_as_texts() -> None:
    for local, base, upstream in itertools.product(SIDES[1:], repeat=3):
        assert local is not None and base is not None and upstream is not None
        if LINK in (local.mode, base.mode, upstream.mode):
            assert not needs_merge(local, base, upstream)


@pytest.mark.parametrize(
    ("case", "local", "base", "upstream", "former", "words"),
    [
        (Case.UPDATE, "a", "a", "b", None, "not edited; changed upstream"),
        (Case.UPDATE, "a", "a", "b", "old.md", "not edited; renamed upstream from old.md"),
        (Case.KEEP, "b", "a", "a", None, "edited by you; unchanged upstream"),
        (Case.KEEP, "b", "a", None, None, "edited by you; removed upstream"),
        (Case.KEEP, "b", None, "b", None, "only its executable bit differs"),
        (Case.KEEP, "b", "a", "c", None, "edited by you; has upstream's change already"),
        (Case.MERGE, "b", "a", "c", None, "edited by you; upstream changed other lines"),
        (Case.MERGE, "b", "a", "a", "old.md", "edited by you; renamed upstream from old.md"),
        (Case.CONFLICT, "b", "a", "c", None, "edited by you; upstream changed the same lines"),
        (Case.CONFLICT, "b", None, "c", None, "because"),
        (Case.CONVERGED, "b", "a", "b", None, "changed here and upstream alike"),
        (Case.UNCHANGED, "a", "a", "a", None, "as upstream has it"),
        (Case.ADD, None, None, "a", None, "new upstream"),
        (Case.STAYS_DELETED, None, "a", "a", None, "deleted by you"),
        (Case.REMOVE, "a", "a", None, None, "not edited; removed upstream"),
    ],
)
def test_each_case_says_why(
    case: Case, local: str | None, base: str | None, upstream: str | None, former: str | None, words: str
) -> None:
    sides = [None if oid is None else State(oid, PLAIN) for oid in (local, base, upstream)]
    said = explain(case, local=sides[0], base=sides[1], upstream=sides[2], former=former, origin="because")
    assert said == words


def test_a_conflict_of_a_link_and_a_file_says_so() -> None:
    said = explain(
        Case.CONFLICT,
        local=State("a", LINK),
        base=State("b", PLAIN),
        upstream=State("c", PLAIN),
        former=None,
        origin="",
    )
    assert said == "a link on one side, a file on the other"
