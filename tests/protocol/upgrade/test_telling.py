"""What people who were not there are told: each question and answer in a few words."""

import pytest

from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.request import (
    LEAVING,
    Aborted,
    AbortUpgrade,
    ConflictsUndecided,
    GetReport,
    Refused,
    Report,
    ResolveConflicts,
    RollBack,
    RolledBack,
    RunPhase,
    RunUpgrade,
    UndoPhases,
    UpgradeAnswer,
    UpgradeDone,
    UpgradeFault,
    UpgradeMessage,
    UpToDate,
)
from mcpkeep.protocol.upgrade.telling import tell_answer, tell_question


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (RunUpgrade(UpgradeOptions("/s"), by="x"), "the upgrade"),
        (RunPhase("s", 3, {}), "phase 3 of the upgrade"),
        (UndoPhases("s", 1), "the return to phase 1"),
        (RollBack(to=None, by="x"), "the rollback"),
        (AbortUpgrade(by="x"), "giving the upgrade up"),
        (ResolveConflicts("p", {}, by="x"), "the decision of conflicts"),
        (GetReport(), "what was asked"),
    ],
)
def test_a_question_has_a_name(question: UpgradeMessage, told: str) -> None:
    assert tell_question(question) == told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (LEAVING, "was ended, for mcpkeep was leaving; nothing live has changed, so ask for it again"),
        (Refused("no git", "install git"), "was refused: no git; install git"),
        (
            UpgradeFault("it crashed", "mend it", 4, "rolled_back"),
            "failed: it crashed; the former version serves again; mend it",
        ),
        (
            UpgradeDone("s", "v1", "v2", "a", "b", "report.md", {}, {}),
            "succeeded: v1 to v2; the report is report.md",
        ),
        (UpToDate("v2", "abc", None, "p"), "had nothing to do: v2 is installed"),
        (RolledBack("s", "b", "a", 1, (), (), {}, 0.1, "r.md"), "succeeded: a serves again"),
        (Aborted(("s1", "s2")), "gave up what was under way: s1, s2"),
        (Aborted(()), "found nothing under way"),
        (ConflictsUndecided("p", {"a.md": "", "b.md": ""}), "waits for decisions on a.md, b.md"),
        (Report("", None, 0, None), "succeeded"),
    ],
)
def test_an_answer_says_how_it_went(answer: UpgradeAnswer, told: str) -> None:
    assert tell_answer(answer) == told
