"""Git's modes and permission bits; git's object ids."""

import pytest

from mcpkeep.protocol.upgrade.blob import blob_id, is_blob
from mcpkeep.protocol.upgrade.file_mode import file_mode, merged_mode, permission_bits
from mcpkeep.protocol.upgrade.plan import Mode

PLAIN: Mode = "100644"
EXEC: Mode = "100755"
LINK: Mode = "120000"


@pytest.mark.parametrize(
    ("mode", "standing", "folder", "bits"),
    [
        (PLAIN, None, 0o755, 0o644),
        (EXEC, None, 0o755, 0o755),
        (PLAIN, None, 0o700, 0o600),
        (EXEC, None, 0o700, 0o700),
        (PLAIN, None, 0o2775, 0o664),
        (PLAIN, 0o600, 0o755, 0o600),
        (EXEC, 0o600, 0o755, 0o700),
        (PLAIN, 0o755, 0o755, 0o644),
        (PLAIN, 0o444, 0o755, 0o444),
        (EXEC, 0o440, 0o755, 0o550),
    ],
)
def test_a_file_keeps_the_permissions_it_had_but_for_execution(
    mode: Mode, standing: int | None, folder: int, bits: int
) -> None:
    assert permission_bits(mode, standing=standing, folder=folder) == bits
    assert file_mode(bits) == mode


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        (PLAIN, PLAIN, EXEC, EXEC),
        (PLAIN, EXEC, PLAIN, EXEC),
        (EXEC, EXEC, PLAIN, PLAIN),
        (None, EXEC, PLAIN, EXEC),
        (LINK, LINK, EXEC, EXEC),
        (PLAIN, PLAIN, LINK, PLAIN),
        (None, LINK, PLAIN, PLAIN),
    ],
)
def test_the_mode_of_a_merged_text_is_the_one_that_was_changed_and_never_a_link(
    base: Mode | None, ours: Mode, theirs: Mode, merged: Mode
) -> None:
    assert merged_mode(base, ours, theirs) == merged


EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
EMPTY_256 = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"


def test_ids_are_those_of_git() -> None:
    assert blob_id(b"", like=EMPTY) == EMPTY
    assert blob_id(b"", like=EMPTY_256) == EMPTY_256


def test_bytes_are_an_object_as_they_are_or_with_other_line_endings() -> None:
    oid = blob_id(b"a\nb\n", like=EMPTY)
    assert is_blob(b"a\nb\n", oid)
    assert is_blob(b"a\r\nb\r\n", oid)
    assert not is_blob(b"a\nb", oid)
    assert not is_blob(b"a\nb\n", blob_id(b"a\r\nb\r\n", like=EMPTY))
    assert not is_blob(b"\0\r\n", blob_id(b"\0\n", like=EMPTY))
