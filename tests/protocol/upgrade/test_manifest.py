"""Upstream's manifest: read, written, and not believed; and the script that believes it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.manifest import (
    InstalledFile,
    Manifest,
    ManifestEntry,
    ManifestUnreadable,
    by_installed_path,
    encode_manifest,
    hostile_entries,
    lies,
    read_manifest,
)
from mcpkeep.protocol.upgrade.plan import Counts
from mcpkeep.protocol.upgrade.safe_upgrade import differences, read_summary

SUM = "0123456789abcdef" * 4
AT = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)


def test_what_is_written_is_in_upstreams_format_and_is_read_back() -> None:
    data = encode_manifest({"standards/a.md": InstalledFile(SUM, 12, AT)}, version="2", generated=AT)
    assert data.decode() == (
        '{\n  "files": {\n    "standards/a.md": {\n'
        f'      "checksum": "sha256:{SUM}",\n      "size": 12,\n      "last_updated": "2026-01-31"\n'
        '    }\n  },\n  "version": "2",\n  "generated": "2026-01-31T23:59:00Z",\n'
        '  "generator_version": "mcpkeep"\n}\n'
    )
    assert by_installed_path(read_manifest(data)) == {"standards/universal/a.md": SUM}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": {}}}', b"\xff", b"[" * 9999]
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestUnreadable):
        read_manifest(data)


@given(st.binary())
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(ManifestUnreadable):
        read_manifest(data)


def test_hostile_and_senseless_entries_are_named_and_not_used() -> None:
    entry = ManifestEntry(f"sha256:{SUM}")
    manifest = Manifest(
        {
            "../x": entry,
            "/etc/x": entry,
            "standards/a": ManifestEntry("md5:1"),
            "README.md": entry,
            "usage/b": entry,
        }
    )
    assert hostile_entries(manifest) == {"../x": "has '..' in it", "/etc/x": "is absolute"}
    assert by_installed_path(manifest) == {"usage/b": SUM}


def test_lies_are_told_apart_from_entries_of_no_file() -> None:
    manifest = Manifest({name: ManifestEntry(f"sha256:{SUM}") for name in ("true", "wrong", "gone")})
    assert lies(manifest, {"true": SUM, "wrong": "f" * 64, "new": SUM}) == (("wrong",), ("gone",))


SAID = """
Analysing...
  New files: 99
=== Analysis Summary ===
  ✅ New files:           80
  🔄 Auto-update: 1
  Unchanged: 27
  • Local-only changes: 3
  ⚠️  Conflicts:  37
  Errors (see below): 40
New files: 5
"""


def test_the_scripts_counts_are_read_from_its_summary_and_compared_with_the_plans() -> None:
    summary = read_summary(SAID)
    assert summary == {
        "new files": 80,
        "updates": 1,
        "unchanged": 27,
        "local-only": 3,
        "conflicts": 37,
        "errors": 40,
    }
    counts = Counts(new_files=80, updated_files=71, unchanged_files=27, conflicts=0, local_only=3)
    assert differences(summary, counts) == (
        "safe-upgrade.py counts 1 updates, the plan 71",
        "safe-upgrade.py counts 37 conflicts, the plan 0",
        "safe-upgrade.py counts 40 errors, the plan 0",
    )
    assert read_summary("New files: 3") == {}
