"""What a late edit was made from, and how it is told."""

import pytest

from mcpkeep.protocol.upgrade.late_edit import (
    CodeEdited,
    LateEdit,
    is_code_path,
    is_cut_short,
    lacking,
    made_from_new,
    tell_edits,
)

FORMER = b"one\ntwo\nthree\nfour\n"
NEW = b"one\ntwo, changed\nthree\nfour\nfive\n"


@pytest.mark.parametrize(
    ("found", "from_new"),
    [
        (NEW, True),
        (NEW + b"mine\n", True),
        (NEW.replace(b"three", b"mine"), True),
        (NEW.replace(b"\n", b"\r\n") + b"mine\r\n", True),
        (FORMER, False),
        (FORMER + b"mine\n", False),
        (b"mine\n" + FORMER, False),
        (b"", False),
        (b"two\ntwo, changed\nfive\nmine\nmore of mine\n", True),
    ],
)
def test_an_edit_belongs_to_the_text_that_it_is_nearer_to(found: bytes, from_new: bool) -> None:
    assert made_from_new(found, former=FORMER, new=NEW) is from_new


def test_what_is_as_near_to_both_is_taken_for_the_formers_so_that_nothing_is_lost() -> None:
    assert made_from_new(b"mine\n", former=b"one\n", new=b"two\n") is False


def test_only_a_beginning_of_the_text_is_cut_short() -> None:
    assert [is_cut_short(text, NEW) for text in (b"", NEW[:7], NEW, NEW + b"x", b"x")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_code_is_what_the_server_and_its_scripts_are_made_of() -> None:
    paths = ("mcp_server/tools.py", "scripts/a.py", "standards/universal/a.md", "mcp_server_notes/a.md")
    assert [is_code_path(path) for path in paths] == [True, True, False, False]


EDITS = (
    LateEdit("a.md", "merged", ".mcpkeep/changes/s/old/a.md"),
    LateEdit("b.md", "apart", ".mcpkeep/conflicts/s/late/b.md"),
    LateEdit("c.md", "deleted"),
    LateEdit("d.md", "newest"),
    LateEdit("e.md", "kept"),
)


def test_each_fate_is_told_with_the_place_of_the_other_side() -> None:
    assert tell_edits(EDITS) == (
        "a.md was changed by you meanwhile: your edit and the new version were merged; your own text lies in "
        ".mcpkeep/changes/s/old/a.md",
        "b.md was changed by you meanwhile: yours stands; the new version lies in "
        ".mcpkeep/conflicts/s/late/b.md",
        "c.md was changed by you meanwhile: it stays deleted",
        "d.md was changed by you meanwhile: yours stands",
        "e.md was changed by you meanwhile: yours stays, though the new version does not have it",
    )
    assert lacking(EDITS) == ("b.md", "c.md", "e.md")


def test_a_refusal_names_the_files_and_says_that_the_edit_is_part_of_the_next_plan() -> None:
    refused = CodeEdited(["mcp_server/b.py", "mcp_server/a.py"])
    assert "changed while the server started: mcp_server/a.py, mcp_server/b.py;" in str(refused)
    assert refused.details == {"stale": ["mcp_server/a.py", "mcp_server/b.py"]}
    assert "your edit is then part of what is planned" in refused.remediation
