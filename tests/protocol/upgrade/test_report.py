"""Reports of upgrades and rollbacks: what they say, how they shorten it, and that no text becomes markup."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.evidence import PostInstallStep
from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.late_edit import LateEdit
from mcpkeep.protocol.upgrade.markdown import bullets, code, plain, table
from mcpkeep.protocol.upgrade.plan import Applied, Case, Choice, Counts, Decision, Plan, PlannedFile
from mcpkeep.protocol.upgrade.products import Merged, Prepared, Switched, Validated
from mcpkeep.protocol.upgrade.proof import Proof, SmokeResult, ToolDiff
from mcpkeep.protocol.upgrade.release import Release
from mcpkeep.protocol.upgrade.report import (
    FileChanges,
    History,
    UpgradeReport,
    VersionFacts,
    history_line,
    read_history,
    report_upgrade,
)
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

BEGAN = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=42.5)
SESSION = "5b3c8f0e-6a1c-4c59-9d0b-1f2e3d4c5b6a"


def release(release_id: str, version: str, commit: str | None) -> Release:
    return Release(1, release_id, version, commit, BEGAN, "venv", "0" * 64, {}, ())


def a_report() -> UpgradeReport:
    files = {
        "workflows/new.md": Case.ADD,
        "standards/universal/a.md": Case.UPDATE,
        "standards/universal/b.md": Case.MERGE,
        "standards/universal/c.md": Case.KEEP,
        "standards/universal/d.md": Case.STAYS_DELETED,
        "standards/universal/e.md": Case.REMOVE,
        "config.json": Case.CONFLICT,
        "mcp_server/x.py": Case.CONVERGED,
        "mcp_server/y.py": Case.UNCHANGED,
    }
    plan = Plan(
        "p", "d", "/src", "e8b70c7" * 5, "1.2.0", None, BEGAN,
        tuple(PlannedFile(path, case) for path, case in files.items()), ("one file has two bases",),
    )  # fmt: skip
    decision = Decision(Choice.KEEP, "resolve")
    aside = {"config.json": ".mcpkeep/conflicts/s/config.json"}
    applied = Applied((), (), 1, 2, 1, {"config.json": decision}, aside)
    proof = Proof("praxis", "1", "/x", {"a": "1", "b": "2"}, (), "built", 9.0)
    order = ChangeOrder(SESSION, "upgrade", "adopted", "2026-e8b70c7", "staged", (), (), {}, True)
    step = PostInstallStep("playwright install chromium", "failed", output="no | network")
    return report_upgrade(
        SESSION,
        by="pos_workflow",
        prepared=Prepared(
            SourceFacts("/src/praxis-os", "e8b70c7" * 5, "1.2.0"),
            release("adopted", "1.1.0", None),
            release("2026-e8b70c7", "1.2.0", "e8b70c7" * 5),
            "2026-01-31-101500",
            False,
            False,
            61,
            (step,),
        ),
        merged=Merged(plan, applied, release("2026-e8b70c7", "1.2.0", "e8b70c7" * 5), (), ("it adds X",)),
        switched=Switched(proof, ToolDiff(("b",), ("old_tool",)), order, ENDED),
        validated=Validated(
            (SmokeResult("search", "search_standards", "passed", "", 0.25),), ("a fact",), ".cache/v.json"
        ),
        seconds={0: 0.5, 1: 20.25, 3: 10.0},
        started_at=BEGAN,
        ended_at=ENDED,
        backup_path=".praxis-os/.backups/2026-01-31-101500",
        late=(
            LateEdit(
                "standards/universal/r.md", "apart", ".mcpkeep/conflicts/s/late/standards/universal/r.md"
            ),
            LateEdit("workflows/w.md", "newest"),
        ),
        warnings=("disk is nearly full",),
    )


def test_the_report_of_an_upgrade_says_all_that_its_phases_came_to() -> None:
    assert a_report().to_markdown() == EXPECTED


EXPECTED = """\
# Upgrade to 1.2.0

Made from 2026-01-31T10:15:00Z to 2026-01-31T10:15:42Z, asked for by pos\\_workflow, in session \
`5b3c8f0e-6a1c-4c59-9d0b-1f2e3d4c5b6a`.
Source: `/src/praxis-os`

|  | before | now |
| --- | --- | --- |
| version | `1.1.0` | `1.2.0` |
| commit | unknown | `e8b70c7e8b70c7e8b70c7e8b70c7e8b70c7` |
| release | `adopted` | `2026-e8b70c7` |

## How to go back

- to the version before: `mcpkeep rollback`, or SIGUSR1 to mcpkeep, or ask the agent
- edits that you make from now on survive it
- to the backup made for this: `mcpkeep rollback --to 2026-01-31-101500`; it lies in \
`.praxis-os/.backups/2026-01-31-101500`

## Files

| files |  |
| --- | --- |
| new | 1 |
| updated or merged | 2 |
| removed | 1 |
| unchanged | 2 |
| your own, kept as they are | 2 |
| in conflict, decided | 1 |

Changed by you while the new version came in (2):

- `standards/universal/r.md`: yours stands; the new version lies in \
.mcpkeep/conflicts/s/late/standards/universal/r.md
- `workflows/w.md`: yours stands

Merged: your edits and the new version (1):

- `standards/universal/b.md`

Kept: you edited them, the new version did not change them or drops them (1):

- `standards/universal/c.md`

Stay deleted, as you left them (1):

- `standards/universal/d.md`

Removed by the new version; they are in the backup (1):

- `standards/universal/e.md`

New (1):

- `workflows/new.md`

Updated (1):

- `standards/universal/a.md`

## Decisions

- `config.json`: yours stays, decided by resolve; the other side lies in `.mcpkeep/conflicts/s/config.json`

## Server

- 2 tools
- tools added: `b`
- tools removed: `old_tool`
- search index: built anew, since the new version could not use the one before
- packages: 61 installed, held to the former versions
- after the installation: `playwright install chromium` failed: no \\| network
- test search of `search_standards`: passed in 0.25 s
- all that was measured: `.cache/v.json`

## Worth knowing

- one file has two bases
- a fact
- disk is nearly full

## What upstream's safe-upgrade script says otherwise

- it adds X

## Time

| phase | seconds |
| --- | --- |
| 0 Pre-flight checks | 0.50 |
| 1 Backup and preparation | 20.25 |
| 3 Server upgrade | 10.00 |
| together | 30.75 |
"""


def test_a_report_without_anything_special_has_no_empty_sections() -> None:
    report = UpgradeReport(
        session_id="s",
        by="x",
        former=VersionFacts("1", None, None),
        new=VersionFacts("2", None, None),
        source_path="/src",
        started_at=BEGAN,
        ended_at=ENDED,
        seconds={},
        counts=Counts(),
        files=FileChanges(),
        kept_aside={"a.md": ".mcpkeep/conflicts/s/a.md"},
        unconstrained=True,
        venv_shared=False,
        packages=3,
        git_committed=True,
    )
    text = report.to_markdown()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## How to go back", "## Files", "## Decisions", "## Server"]
    assert "- `a.md`: kept in `.mcpkeep/conflicts/s/a.md`\n" in text
    assert "- packages: 3 installed, newer than before: the former versions could not be held\n" in text
    assert "- the changes are committed in git\n" in text


def test_the_report_of_a_rollback_names_its_cause_and_what_is_left_to_settle() -> None:
    report = RollbackReport(
        session_id="rollback-1",
        by="SIGUSR1",
        from_release="new",
        to_release="adopted",
        started_at=BEGAN,
        ended_at=ENDED,
        steps={"planning the way back": 0.1, "switching": 0.2},
        restored=("a.md",),
        merged=("b.md",),
        kept=("c.md",),
        kept_aside={"c.md": ".mcpkeep/conflicts/rollback-1/c.md"},
    )
    assert report.to_markdown() == (
        "# Rollback to adopted\n\n"
        "Made from 2026-01-31T10:15:00Z to 2026-01-31T10:15:42Z, session `rollback-1`.\n\n"
        "|  |  |\n| --- | --- |\n"
        "| called for by | SIGUSR1 |\n| left | `new` |\n| serves again | `adopted` |\n\n"
        "## Restored (1)\n\n- `a.md`\n\n"
        "## Merged: what the upgrade had changed is out, what you edited since is in (1)\n\n- `b.md`\n\n"
        "## Kept: yours, edited or made since (1)\n\n- `c.md`\n\n"
        "## To settle by hand: the version that gave way lies aside\n\n"
        "- `c.md`: `.mcpkeep/conflicts/rollback-1/c.md`\n\n"
        "## Time\n\n| step | seconds |\n| --- | --- |\n"
        "| planning the way back | 0.10 |\n| switching | 0.20 |\n| together | 0.30 |\n\n"
        "## How to go forward again\n\n- `mcpkeep upgrade`, once the cause is mended\n"
    )
    assert history_line(report) == {
        "at": "2026-01-31T10:15:42Z",
        "session_id": "rollback-1",
        "by": "SIGUSR1",
        "outcome": "completed",
        "seconds": 42.5,
        "kind": "rollback",
        "from": "new",
        "to": "adopted",
    }


def test_long_lists_are_cut_short_and_counted() -> None:
    assert bullets(["a", "b", "c"], most=3) == ["- a", "- b", "- c"]
    assert bullets(["a", "b", "c", "d", "e"], most=3) == ["- a", "- b", "- c", "- and 2 more"]


def inline(text: str) -> list[tuple[str, str]]:
    """The tokens of one paragraph, by kind and content."""
    (token,) = [
        token for token in MarkdownIt("commonmark").enable("table").parse(text) if token.type == "inline"
    ]
    return [(child.type, child.content) for child in token.children or []]


words = st.text(st.sampled_from("ab`*_<>#[]()!|\\~& \n\t\ré\udcff"), min_size=1, max_size=12)


@given(words)
def test_any_text_in_a_report_is_shown_as_it_is(text: str) -> None:
    seen = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    kinds = inline(f"x {plain(text)} x")
    assert {kind for kind, _ in kinds} <= {"text", "text_special"}
    assert "".join(content for _, content in kinds).split() == ["x", *seen.split(), "x"]


@given(words.filter(lambda text: text.strip() != ""))
def test_any_name_in_a_report_is_shown_as_it_is(text: str) -> None:
    seen = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    assert inline(f"x {code(text)} x") == [("text", "x "), ("code_inline", seen), ("text", " x")]


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    text = "\n".join(table(("a", "b"), [(code("x|y"), plain("p|q"))]))
    cells = [
        "".join(child.content for child in token.children or [])
        for token in MarkdownIt("commonmark").enable("table").parse(text)
        if token.type == "inline"
    ]
    assert cells == ["a", "b", "x|y", "p|q"]


def line(kind: str, outcome: str, to: str = "", origin: str = "", by: str = "") -> dict[str, object]:
    return {"kind": kind, "outcome": outcome, "to": to, "from": origin, "by": by}


UP, BACK = line("upgrade", "completed", "b", "a"), line("rollback", "completed", "a", "b")
AGAIN = line("rollback", "completed", "b", "a")
CRASHED = line("rollback", "completed", "a", "b", "probation")


@pytest.mark.parametrize(
    ("lines", "history", "rate"),
    [
        ([], History(0, 0, 0, 0), None),
        ([line("upgrade", "aborted")], History(0, 0, 0, 1), None),
        ([BACK], History(0, 0, 0, 0), None),
        ([UP], History(1, 0, 0, 0), 1.0),
        ([UP, line("upgrade", "failed"), line("upgrade", "aborted")], History(2, 1, 0, 1), 0.5),
        ([line("upgrade", "rolled_back")], History(1, 1, 0, 0), 0.0),
        ([UP, BACK], History(1, 0, 1, 0), 1.0),
        ([UP, CRASHED], History(1, 1, 0, 0), 0.0),
        ([UP, line("rollback", "failed", "a", "b")], History(1, 0, 0, 0), 1.0),
        ([UP, BACK, AGAIN], History(1, 0, 0, 0), 1.0),
        ([UP, BACK, AGAIN, CRASHED], History(1, 1, 0, 0), 0.0),
        ([UP, BACK, line("upgrade", "completed", "c", "a"), {"garbage": 1}], History(2, 0, 1, 0), 1.0),
        ([history_line(a_report())], History(1, 0, 0, 0), 1.0),
    ],
)
def test_the_history_counts_failures_apart_from_what_was_taken_back_on_request(
    lines: list[dict[str, object]], history: History, rate: float | None
) -> None:
    assert (read_history(lines), read_history(lines).success_rate) == (history, rate)
