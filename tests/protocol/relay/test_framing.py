"""Bytes into lines: the same frames however they arrive, and the id of what was too long."""

import json
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpkeep.protocol.relay.framing import Frame, IdScanner, LineSplitter, Oversized

LIMIT = 40
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def split(pieces: Iterable[bytes], limit: int = LIMIT) -> list[Frame]:
    splitter = LineSplitter(limit)
    frames = [frame for piece in pieces for frame in splitter.feed(piece)]
    return frames + splitter.end()


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


LONG = b"x" * LIMIT

CASES: list[tuple[bytes, list[Frame]]] = [
    (b'{"a":1}\n', [b'{"a":1}\n']),
    (b'{"a":1}\r\n', [b'{"a":1}\n']),
    (b'{"a":1}\r\r\n', [b'{"a":1}\r\n']),
    (b'{"a":\r1}\n', [b'{"a":\r1}\n']),
    (b"\n", []),
    (b"\r\n", []),
    (b" \t \n", []),
    (b"\n\n\r\n  \na\n\n", [b"a\n"]),
    (b"a\nb\nc\n", [b"a\n", b"b\n", b"c\n"]),
    (b"a \n", [b"a \n"]),
    ("\u2028\u0085\u2029\x0b\x0c\n".encode(), ["\u2028\u0085\u2029\x0b\x0c\n".encode()]),
    (b"\x00\n", [b"\x00\n"]),
    (LONG + b"\n", [LONG + b"\n"]),
    (LONG + b"x\n", [Oversized(LIMIT + 1, None, False)]),
    (LONG[1:] + b"\r\n", [LONG[1:] + b"\n"]),
    (b" " * (LIMIT + 1) + b"\n", [Oversized(LIMIT + 1, None, False)]),
    (b'{"id":7,"r":"' + LONG + b'"}\nok\n', [Oversized(15 + LIMIT, 7, False), b"ok\n"]),
]


@pytest.mark.parametrize(("data", "frames"), CASES)
def test_a_stream_gives_the_same_lines_whole_byte_by_byte_and_with_more_behind(
    data: bytes, frames: list[Frame]
) -> None:
    assert split([data]) == frames
    assert split(bytewise(data)) == frames
    assert split([data + b"next"]) == [*frames, b"next\n"]
    assert split([data + data]) == frames * 2


@pytest.mark.parametrize(("data", "last"), [(b"a", [b"a\n"]), (b"a\r", [b"a\n"]), (b"  ", []), (b"", [])])
def test_an_unfinished_line_at_the_end_counts_as_one(data: bytes, last: list[Frame]) -> None:
    assert split([data]) == last
    assert split([b"x\n" + data]) == [b"x\n", *last]


def test_an_unfinished_long_line_at_the_end_is_told_too() -> None:
    assert split([b'{"id":"a","x":"' + LONG]) == [Oversized(LIMIT + 15, "a", False)]


LINES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"", b"\r", b" ", b"x" * 39, b"x" * 40, b"x" * 41, b'{"id":1,"x":"' + LONG]),
    )
)


@CALM
@given(lines=LINES, cuts=st.lists(st.integers(0, 400)))
def test_any_chunking_of_any_lines_gives_the_same_frames(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert split(pieces) == split([data]) == split(bytewise(data))


def test_a_line_that_comes_in_crumbs_takes_about_its_own_size() -> None:
    splitter = LineSplitter(1_000_000)
    tracemalloc.start()
    try:
        for at in range(200_000):
            splitter.feed(b"%04d" % (at % 10_000))
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    [line] = splitter.feed(b"\n")
    assert len(line) == 800_001 if isinstance(line, bytes) else False


def test_a_line_above_the_limit_is_not_kept() -> None:
    splitter = LineSplitter(10_000)
    tracemalloc.start()
    try:
        for piece in (b'{"result":{"text":"', *[b"x" * 1000] * 3000, b'"},"id":5}'):
            splitter.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    assert splitter.feed(b"\n") == [Oversized(3_000_029, 5, False)]


# The id of what is not kept

BIG = '"' + 'x\\"[{' * 20 + '"'

SCANS = [
    ('{"jsonrpc":"2.0","id":5,"result":%s}', 5, False),
    ('{"result":%s,"jsonrpc":"2.0","id":5}', 5, False),
    ('{"result":{"id":1,"x":[{"id":2}],"y":%s},"id":"a"}', "a", False),
    ('{"result":{"method":"no","y":%s},"id":5}', 5, False),
    ('{"params":{"y":%s},"method":"m","id":5}', 5, True),
    ('{"params":{"y":%s},"method":"m"}', None, True),
    ('{"x":"\\"id\\":9","y":%s,"id":5}', 5, False),
    ('{"x":"\\\\","id":5,"y":%s}', 5, False),
    ('{"x":"{[}","y":%s,"id":5}', 5, False),
    ('{"y":%s,"id":"]}\\"[{"}', ']}"[{', False),
    ('{"y":%s,"id":"\\u00e9\\n"}', "é\n", False),
    ('{"y":%s, "id" : -5 }', -5, False),
    ('{"y":%s,"id":null}', None, False),
    ('{"y":%s,"id":1.5}', None, False),
    ('{"y":%s,"id":true}', None, False),
    ('{"y":%s,"id":{"id":1}}', None, False),
    ('{"y":%s,"id":[1]}', None, False),
    ('{"id":1,"y":%s,"id":2}', 2, False),
    ('{"y":%s,"id":"' + "k" * 400 + '"}', None, False),
    ('{"y":%s,"key":"id"}', None, False),
    ('{"y":%s,"a":["id",5]}', None, False),
    ('[{"id":1,"y":%s}]', None, False),
    ("%s", None, False),
    ('log: {"y":%s,"id":5}', 5, False),
    ('\ufeff{"y":%s,"id":5}', 5, False),
    ('{"y":%s,"id":5', None, False),
]


@pytest.mark.parametrize(("text", "id_", "is_request"), SCANS)
@pytest.mark.parametrize("big", [BIG, "[[],[{}]," + BIG + "]", "{}", "[" * 90 + "]" * 90])
def test_the_id_of_a_dropped_line_is_found_wherever_it_stands(
    text: str, id_: int | str | None, is_request: bool, big: str
) -> None:
    line = (text % big).encode()
    for size in (1, 2, 3, 7, len(line)):
        scanner = IdScanner()
        for at in range(0, len(line), size):
            scanner.feed(line[at : at + size])
        assert (scanner.id, scanner.is_request) == (id_, is_request), size


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "method", "a", "]"]) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@CALM
@given(
    message=st.dictionaries(st.sampled_from(["id", "method", "result", "x", '"id":']), JSON),
    size=st.integers(1, 40),
    is_ascii=st.booleans(),
)
def test_the_scanner_finds_what_a_parser_finds(message: dict[str, object], size: int, is_ascii: bool) -> None:
    line = json.dumps(message, ensure_ascii=is_ascii).encode(errors="replace")
    expected = message.get("id")
    if not isinstance(expected, int | str) or isinstance(expected, bool):
        expected = None
    if isinstance(expected, str) and any("\ud800" <= character <= "\udfff" for character in expected):
        return
    scanner = IdScanner()
    for at in range(0, len(line), size):
        scanner.feed(line[at : at + size])
    assert (scanner.id, scanner.is_request) == (expected, "method" in message)


@CALM
@given(data=st.binary() | st.text('{}[]":,\\id5').map(str.encode), size=st.integers(1, 9))
def test_garbage_ends_in_an_id_or_none(data: bytes, size: int) -> None:
    scanner = IdScanner()
    for at in range(0, len(data), size):
        scanner.feed(data[at : at + size])
    assert scanner.id is None or isinstance(scanner.id, int | str)
