"""Wishes by path or glob become decisions on a plan's conflicts."""

from datetime import UTC, datetime

import pytest

from mcpkeep.protocol.upgrade.decisions import Outcome, decide_conflicts, outcome_of, text_of
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Case, Choice, Decision, Plan, PlannedFile

DEFAULT = Decision(Choice.KEEP, "default")
KEEP, TAKE = Decision(Choice.KEEP, "user"), Decision(Choice.TAKE, "user")


def _plan(*paths: str) -> Plan:
    files = (PlannedFile("other.md", Case.UPDATE), *(PlannedFile(path, Case.CONFLICT) for path in paths))
    return Plan("p", "d", "/source", "c", "1", None, datetime(2026, 1, 1, tzinfo=UTC), files)


PLAN = _plan("standards/a.md", "standards/deep/b.md", "workflows/[x].json")


@pytest.mark.parametrize(
    ("wishes", "decided"),
    [
        ({}, {}),
        ({"standards/a.md": "take"}, {"standards/a.md": TAKE}),
        ({"standards/*": "keep"}, {"standards/a.md": KEEP, "standards/deep/b.md": KEEP}),
        ({"*.md": "take", "*/b.md": "keep"}, {"standards/a.md": TAKE, "standards/deep/b.md": KEEP}),
        ({"*/b.md": "keep", "*.md": "take"}, {"standards/a.md": TAKE, "standards/deep/b.md": TAKE}),
        ({"standards/a.md": "keep", "*.md": "take"}, {"standards/a.md": KEEP, "standards/deep/b.md": TAKE}),
        ({"workflows/[x].json": "take"}, {"workflows/[x].json": TAKE}),
        (
            {"*": "keep", "*/b.md": {"merge": "one\n"}},
            {
                "standards/a.md": KEEP,
                "standards/deep/b.md": Decision(Choice.MERGE, "user", "one\n"),
                "workflows/[x].json": KEEP,
            },
        ),
    ],
)
def test_a_path_beats_a_glob_and_the_last_glob_wins(
    wishes: dict[str, object], decided: dict[str, Decision]
) -> None:
    assert decide_conflicts(PLAN, wishes, by="user") == decided
    rest = {file.path: DEFAULT for file in PLAN.conflicts}
    assert decide_conflicts(PLAN, wishes, by="user", default=DEFAULT) == {**rest, **decided}


@pytest.mark.parametrize(
    ("wishes", "text", "remedy"),
    [
        (
            {"standards/c.md": "keep"},
            "'standards/c.md' matches none of the 3 conflicts",
            "the nearest: 'standards/a.md'",
        ),
        ({"other.md": "keep"}, "'other.md' matches none of the 3 conflicts", "the nearest: "),
        ({"*.md": {"merge": "x"}}, "the text for '*.md' would go into 2 files", "decide each"),
        ({"*": "drop"}, "'drop' for '*' is no decision", 'a decision is "keep", "take" or'),
        ({"*": {"merge": "x", "by": "y"}}, "{'merge': 'x', 'by': 'y'} for '*' is no decision", "a decision"),
        ({"*": {"merge": 1}}, "{'merge': 1} for '*' is no decision", "a decision"),
        ({"*": None}, "None for '*' is no decision", "a decision"),
        (
            {"standards/a.md": {"merge": "<<<<<<< a\n=======\n>>>>>>> b\n"}},
            "the text for 'standards/a.md' has conflict markers in it",
            "settle what stands between",
        ),
        (
            {"standards/a.md": {"merge": "a\ud800"}},
            "the text for 'standards/a.md' has half a character at 1",
            "send the text again",
        ),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_what_to_do(
    wishes: dict[str, object], text: str, remedy: str
) -> None:
    with pytest.raises(UpgradeFailed) as refused:
        decide_conflicts(PLAN, wishes, by="user")
    assert str(refused.value) == text
    assert refused.value.remediation.startswith(remedy)


def test_a_wish_is_refused_where_nothing_is_to_be_decided() -> None:
    with pytest.raises(UpgradeFailed, match="there are no conflicts"):
        decide_conflicts(_plan(), {"*": "keep"}, by="user")


OUTCOMES = {
    Case.UNCHANGED: Outcome.LEAVE,
    Case.CONVERGED: Outcome.LEAVE,
    Case.KEEP: Outcome.LEAVE,
    Case.STAYS_DELETED: Outcome.LEAVE,
    Case.ADD: Outcome.UPSTREAM,
    Case.UPDATE: Outcome.UPSTREAM,
    Case.MERGE: Outcome.MERGED,
    Case.REMOVE: Outcome.REMOVE,
}


@pytest.mark.parametrize("case", Case)
def test_a_decision_counts_for_conflicts_only(case: Case) -> None:
    file = PlannedFile("a", case)
    if case is not Case.CONFLICT:
        assert outcome_of(file, TAKE) is outcome_of(file, None) is OUTCOMES[case]
        return
    assert outcome_of(file, KEEP) is Outcome.LEAVE
    assert outcome_of(file, TAKE) is Outcome.UPSTREAM
    assert outcome_of(file, Decision(Choice.MERGE, "user", "")) is Outcome.TEXT
    with pytest.raises(UpgradeFailed, match="the conflict over 'a' has no decision"):
        outcome_of(file, None)


def test_a_merge_without_its_text_is_refused() -> None:
    assert text_of("a", Decision(Choice.MERGE, "user", "ü\n")) == "ü\n".encode()
    with pytest.raises(UpgradeFailed, match="the merge of 'a' has no text"):
        text_of("a", Decision(Choice.MERGE, "user"))
