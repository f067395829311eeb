"""Conflict markers, as git and others write them into files that they could not merge."""

__all__ = ["has_conflict_markers"]


def has_conflict_markers(data: bytes) -> bool:
    """Whether `<<<<<<< `, `=======` and `>>>>>>> ` begin three lines, in that order.

    A row of equals signs alone is a heading in prose, and no marker.
    """
    expected = iter((b"<<<<<<<", b"=======", b">>>>>>>"))
    marker = next(expected)
    if marker not in data:
        return False
    for line in data.splitlines():
        if line.startswith(marker) and line[7:8] in (b"", b" "):
            following = next(expected, None)
            if following is None:
                return True
            marker = following
    return False
