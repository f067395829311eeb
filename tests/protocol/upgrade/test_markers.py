"""Conflict markers are told from rows of equals signs."""

import pytest

from mcpkeep.protocol.upgrade.markers import has_conflict_markers

WHOLE = b"x\n<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (WHOLE, True),
        (WHOLE.replace(b"\n", b"\r\n"), True),
        (WHOLE.replace(b" ours", b"").replace(b" theirs", b""), True),
        (WHOLE.replace(b"=======\n", b"||||||| base\nc\n=======\n"), True),
        (b"Title\n=======\n\n<<<<<<< is what git writes\n", False),
        (b">>>>>>> a\n=======\n<<<<<<< b\n", False),
        (b" <<<<<<< ours\n=======\n>>>>>>> theirs\n", False),
        (b"<<<<<<<<<< ours\n==========\n>>>>>>>>>> theirs\n", False),
        (b"<<<<<<< ours\n========\n>>>>>>> theirs\n", False),
        (b"", False),
    ],
)
def test_markers_are_three_lines_in_their_order(data: bytes, has: bool) -> None:
    assert has_conflict_markers(data) is has
