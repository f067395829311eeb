"""Line endings are told apart and kept; what is no text is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.upgrade.line_endings import (
    LineEndings,
    is_binary,
    line_endings,
    normalised,
    with_line_endings,
)

PIECES = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"\0"])).map(b"".join)


@pytest.mark.parametrize(
    ("data", "endings"),
    [
        (b"", LineEndings.NONE),
        (b"a\rb", LineEndings.NONE),
        (b"a\n\n", LineEndings.LF),
        (b"a\r\nb", LineEndings.CRLF),
        (b"a\r\r\n", LineEndings.MIXED),
        (b"a\r\nb\n", LineEndings.MIXED),
    ],
)
def test_what_ends_the_lines_is_told(data: bytes, endings: LineEndings) -> None:
    assert line_endings(data) is endings


@given(PIECES)
def test_a_text_comes_back_from_the_other_endings_as_it_was(data: bytes) -> None:
    endings = line_endings(data)
    if endings is LineEndings.MIXED:
        assert with_line_endings(data, LineEndings.CRLF) == data
    else:
        assert with_line_endings(normalised(data), endings) == data


def test_binary_is_never_converted() -> None:
    data = b"\x89PNG\r\n\x1a\n\0"
    assert is_binary(data)
    assert normalised(data) == data
    assert with_line_endings(data, LineEndings.LF) == data
    assert with_line_endings(b"\0\n", LineEndings.CRLF) == b"\0\n"


def test_a_wish_for_no_endings_changes_nothing() -> None:
    assert with_line_endings(b"a\n", LineEndings.NONE) == b"a\n"
    assert with_line_endings(b"a\n", LineEndings.MIXED) == b"a\n"
    assert with_line_endings(b"a\n", LineEndings.CRLF) == b"a\r\n"
    assert with_line_endings(b"a\r\n", LineEndings.LF) == b"a\n"
