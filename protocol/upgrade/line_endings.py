"""Line endings: which a file has, and how a text is brought to them."""

import enum

__all__ = ["LineEndings", "is_binary", "line_endings", "normalised", "with_line_endings"]


class LineEndings(enum.Enum):
    """What ends the lines of a file."""

    NONE = "none"
    """There is no line's end in it."""
    LF = "lf"
    CRLF = "crlf"
    MIXED = "mixed"


def is_binary(data: bytes) -> bool:
    """Whether this is no text: it has a zero byte, as git decides it, but anywhere."""
    return b"\0" in data


def line_endings(data: bytes) -> LineEndings:
    """What ends the lines of `data`; a carriage return alone ends none, two before a LF are MIXED."""
    ends = data.count(b"\n")
    with_return = data.count(b"\r\n")
    if not ends:
        return LineEndings.NONE
    if b"\r\r\n" in data:
        return LineEndings.MIXED
    if with_return == ends:
        return LineEndings.CRLF
    return LineEndings.MIXED if with_return else LineEndings.LF


def normalised(data: bytes) -> bytes:
    """`data` with LF for CRLF; binary as it is."""
    return data if is_binary(data) else data.replace(b"\r\n", b"\n")


def with_line_endings(data: bytes, endings: LineEndings) -> bytes:
    """Bring `data` to LF or CRLF. Binary, mixed ones, and NONE or MIXED as the wish, leave it as it is."""
    if is_binary(data) or line_endings(data) in (LineEndings.MIXED, endings):
        return data
    match endings:
        case LineEndings.LF:
            return normalised(data)
        case LineEndings.CRLF:
            return data.replace(b"\n", b"\r\n")
        case _:
            return data
