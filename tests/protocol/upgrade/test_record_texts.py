"""VERSION.txt, UPDATE_LOG.txt, INSTALLATION_SUMMARY.md: brought up to date, with all of the user's kept."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.plan import Counts
from mcpkeep.protocol.upgrade.record_texts import (
    append_entry,
    log_entry,
    put_section,
    rollback_entry,
    rollback_section,
    summary_section,
    version_text,
)
from mcpkeep.protocol.upgrade.report import FileChanges, UpgradeReport, VersionFacts
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

NOW = datetime(2026, 1, 31, 10, 15, 5, tzinfo=UTC)


def version(old: str) -> str:
    return version_text(old, version="1.2.0", commit="e8b70c7abcdef", source="/src/praxis os", at=NOW)


FRESH = """\
version_installed=1.2.0
version_updated=2026-01-31T10:15:05Z
commit=e8b70c7
source=/src/praxis os
"""


def test_a_first_version_file_has_the_four_facts() -> None:
    assert version("") == FRESH


def test_the_users_lines_stay_in_their_places() -> None:
    old = (
        "prAxIs OS at our place\n\ncommit = 925b10d\n# note: source=elsewhere\n"
        "version_installed=2025-10-08T10:30:45\nours=1\n"
    )
    assert version(old) == (
        "prAxIs OS at our place\n\ncommit=e8b70c7\n# note: source=elsewhere\n"
        "version_installed=2025-10-08T10:30:45\nours=1\n"
        "version_updated=2026-01-31T10:15:05Z\nsource=/src/praxis os\n"
    )
    assert version("version_installed=1.1.0\r\nours=1\r\n").splitlines(keepends=True)[:2] == [
        "version_installed=1.2.0\r\n",
        "ours=1\r\n",
    ]


@given(st.text())
def test_updating_twice_is_updating_once(old: str) -> None:
    assert version(version(old)) == version(old)


def test_an_entry_of_the_log_has_upstreams_form() -> None:
    entry = log_entry("1.2.0", NOW, new=3, updated=71, resolved=2)
    assert entry == (
        "=== Upgrade to 1.2.0 - 2026-01-31 10:15:05 ===\n"
        "New files: 3\nUpdated files: 71\nConflicts resolved: 2\n"
    )
    assert append_entry("", entry) == entry
    assert append_entry("first", "second\n") == "first\n\nsecond\n"
    assert append_entry("first\r\n", "second\n") == "first\r\n\r\nsecond\r\n"
    assert append_entry(append_entry("first\n", entry), entry) == f"first\n\n{entry}"


def section(version: str) -> str:
    return summary_section(
        UpgradeReport(
            session_id="s",
            by="mcpkeep upgrade",
            former=VersionFacts("1.1.0", None, "adopted"),
            new=VersionFacts(version, "e8b70c7abcdef", "2026-e8b70c7"),
            source_path="/src",
            started_at=NOW,
            ended_at=NOW,
            seconds={},
            counts=Counts(new_files=3, updated_files=71, local_only=5, conflicts=2),
            files=FileChanges(),
            backup_id="2026-01-31-101500",
        )
    )


SECTION = """\
## Installed by mcpkeep

- version: `1.2.0`, commit `e8b70c7abc`
- release: `2026-e8b70c7`
- installed: 2026-01-31T10:15:05Z, by mcpkeep upgrade
- before: `1.1.0`, release `adopted`
- files: 3 new, 71 updated, 0 removed, 5 of your own kept, 2 conflicts decided
- backup: `2026-01-31-101500`
- how to go back: `mcpkeep rollback`
"""


def test_the_summary_names_the_newest_upgrade_in_its_own_place() -> None:
    assert section("1.2.0") == SECTION
    first = put_section("", SECTION)
    assert first == (
        "# Installation summary\n\n<!-- mcpkeep: the text from here is replaced by each upgrade -->\n"
        f"{SECTION}<!-- mcpkeep: to here -->\n"
    )
    edited = f"Our own words.\n\n{first}\nMore of ours.\n"
    second = put_section(edited, section("1.3.0"))
    assert second == edited.replace("1.2.0", "1.3.0")


def test_a_rollback_has_its_entry_and_takes_the_sections_place() -> None:
    report = RollbackReport(
        session_id="rollback-1",
        by="SIGUSR1",
        from_release="2026-e8b70c7",
        to_release="adopted",
        to_version="1.1.0",
        started_at=NOW,
        ended_at=NOW,
        restored=("a.md", "b.md"),
        merged=("c.md",),
    )
    assert rollback_entry(report) == (
        "=== Rollback to 1.1.0 - 2026-01-31 10:15:05 ===\nRestored files: 2\nMerged files: 1\nKept files: 0\n"
    )
    assert rollback_section(report) == (
        "## Installed by mcpkeep\n\n"
        "- version: `1.1.0`\n"
        "- release: `adopted`\n"
        "- rolled back: 2026-01-31T10:15:05Z, by SIGUSR1\n"
        "- before: release `2026-e8b70c7`\n"
        "- files: 2 restored, 1 merged, 0 kept\n"
        "- how to go forward again: `mcpkeep rollback`, or `mcpkeep upgrade`\n"
    )


def test_a_half_marked_section_takes_nothing_of_the_users_with_it() -> None:
    broken = put_section("", SECTION).replace("<!-- mcpkeep: to here -->", "") + "ours\n"
    assert put_section(broken, "new\n").startswith(broken.rstrip())
    assert put_section("a\r\n", "b\n") == (
        "a\r\n\r\n<!-- mcpkeep: the text from here is replaced by each upgrade -->\r\n"
        "b\r\n<!-- mcpkeep: to here -->\r\n"
    )
