"""What a line must be to be carried: strict where msgspec is not, always with a value or our error."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.head import NO_META, Head, Meta, Params, Result, TaskHandle, read_head
from mcpkeep.protocol.relay.jsonrpc import (
    MAX_DEPTH,
    Message,
    decode_message,
    decode_object,
    decode_text,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    nests_deeper_than,
    split_batch,
)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def nested(depth: int, inside: bytes = b"1") -> bytes:
    """A message of this depth, itself included."""
    return b'{"jsonrpc":"2.0","method":"m","x":' + b"[" * (depth - 1) + inside + b"]" * (depth - 1) + b"}"


def with_value(value: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"result":{"x":' + value + b"}}\n"


CARRIED = {
    "request": b'{"jsonrpc":"2.0","id":1,"method":"m"}',
    "string id": b'{"jsonrpc":"2.0","id":"","method":"m"}',
    "large id": b'{"jsonrpc":"2.0","id":99999999999999999999,"method":"m"}',
    "notification": b'{"jsonrpc":"2.0","method":"m","params":{}}',
    "any params": b'{"jsonrpc":"2.0","method":"m","params":[1]}',
    "odd params": b'{"jsonrpc":"2.0","method":"m","params":{"name":1,"_meta":7}}',
    "response": b'{"jsonrpc":"2.0","id":1,"result":{}}',
    "any result": b'{"jsonrpc":"2.0","id":1,"result":7}',
    "error": b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}',
    "error to nobody": b'{"jsonrpc":"2.0","id":null,"error":{}}',
    "result and null error": b'{"jsonrpc":"2.0","id":1,"result":{},"error":null}',
    "result and error": b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
    "unknown members": b'{"jsonrpc":"2.0","id":1,"method":"m","extra":[{}]}',
    "spaces": b' { "jsonrpc" : "2.0" ,\t"id" : 1 ,\r"method":"m" } \n',
    "escapes": b'{"jsonrpc":"2.0","m\\u0065thod":"m"}',
    "separators in strings": with_value('"\u2028\u0085"'.encode()),
    "surrogate pair": with_value(b'"\\ud83d\\ude00"'),
    "number beyond floats": with_value(b"1e400"),
    "deepest": nested(MAX_DEPTH),
    "brackets in strings": nested(3, b'"' + b"[" * 5000 + b'\\"{"'),
    "wide": nested(3, b"[" + b"[],{}," * 5000 + b"1]"),
}

REFUSED = {
    "nothing": b"",
    "text": b"hello",
    "number": b"7",
    "null": b"null",
    "array": b"[]",
    "batch": b'[{"jsonrpc":"2.0","id":1,"method":"m"}]',
    "two": b'{"jsonrpc":"2.0","method":"m"}{"jsonrpc":"2.0","method":"m"}',
    "cut": b'{"jsonrpc":"2.0","id":1,"result":{',
    "BOM": b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}',
    "prefix": b'INFO {"jsonrpc":"2.0","method":"m"}',
    "no version": b'{"id":1,"method":"m"}',
    "another version": b'{"jsonrpc":"1.0","id":1,"method":"m"}',
    "number version": b'{"jsonrpc":2.0,"id":1,"method":"m"}',
    "fraction id": b'{"jsonrpc":"2.0","id":1.5,"method":"m"}',
    "bool id": b'{"jsonrpc":"2.0","id":true,"method":"m"}',
    "object id": b'{"jsonrpc":"2.0","id":{},"method":"m"}',
    "array id": b'{"jsonrpc":"2.0","id":[1],"result":{}}',
    "number method": b'{"jsonrpc":"2.0","id":1,"method":7}',
    "invalid UTF-8": b'{"jsonrpc":"2.0","method":"\xff"}',
    "invalid UTF-8 in what is skipped": b'{"jsonrpc":"2.0","method":"m","x":["\xc3"]}',
    "overlong UTF-8": b'{"jsonrpc":"2.0","method":"\xc0\xaf"}',
    "UTF-8 surrogate": b'{"jsonrpc":"2.0","method":"\xed\xa0\x80"}',
    "NaN": with_value(b"NaN"),
    "Infinity": with_value(b"-Infinity"),
    "lone surrogate": with_value(b'"\\ud800"'),
    "lone low surrogate": with_value(b'"\\udc00x"'),
    "surrogates swapped": with_value(b'"\\udc00\\ud800"'),
    "lone surrogate in a key": with_value(b'{"\\ud800":1}'),
    "control character": with_value(b'"\x01"'),
    "single quotes": with_value(b"'x'"),
    "trailing comma": with_value(b"[1,]"),
    "leading zero": with_value(b"01"),
    "comment": with_value(b"1/**/"),
    "too deep": nested(MAX_DEPTH + 1),
    "much too deep": nested(100_000),
    "too deep behind strings": nested(MAX_DEPTH + 1, b'"\\\\"'),
    "too deep in objects": b'{"jsonrpc":"2.0","method":"m","x":' + b'{"a":' * 512 + b"1" + b"}" * 513,
}

HEADLESS = {
    "neither method nor id": b'{"jsonrpc":"2.0"}',
    "neither result nor error": b'{"jsonrpc":"2.0","id":1}',
    "null result": b'{"jsonrpc":"2.0","id":1,"result":null}',
    "null id of a request": b'{"jsonrpc":"2.0","id":null,"method":"m"}',
}


@pytest.mark.parametrize("line", CARRIED.values(), ids=CARRIED)
def test_a_message_is_carried(line: bytes) -> None:
    decode_message(line)
    read_head(line)


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_message(line)
    with pytest.raises(ProtocolError):
        read_head(line)


@pytest.mark.parametrize("line", HEADLESS.values(), ids=HEADLESS)
def test_a_message_that_is_no_request_notification_or_response_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_head(line)


def test_the_head_holds_what_matters_and_nothing_of_a_foreign_type() -> None:
    params = (
        b'{"name":"n","uri":"u","level":"l","cursor":"c","requestId":1,"progressToken":"p","requestState":"s",'
        b'"taskId":"t","task":{},"_meta":{"progressToken":5,"io.modelcontextprotocol/protocolVersion":"v",'
        b'"io.modelcontextprotocol/logLevel":"debug","io.modelcontextprotocol/subscriptionId":9}}'
    )
    head = read_head(b'{"jsonrpc":"2.0","id":"a","method":"m","params":' + params + b"}")
    meta = Meta(5, "v", "debug", 9)
    assert head.params == Params("n", "u", "l", "c", 1, "p", "s", "t", msgspec.Raw(b"{}"), meta)
    head = read_head(b'{"jsonrpc":"2.0","id":1,"result":{"requestState":"s","task":{"taskId":"t","x":1}}}')
    assert head == Head("2.0", 1, result=Result("s", TaskHandle("t")))
    head = read_head(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":7}}')
    assert (head.id, head.method, head.params) == (1, "m", Params()) and head.params.meta is NO_META


def strict(line: bytes) -> Any:
    """The same rule by the standard library."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    value = json.loads(line.decode(), parse_constant=refuse, parse_float=str, parse_int=str)
    json.dumps(value, ensure_ascii=False).encode()  # refuses lone surrogates
    return value


PIECES = st.sampled_from(
    [
        *'{}[],:"\\0-1.eE+ ',
        "null",
        "true",
        "NaN",
        '"a"',
        "1e400",
        "\\u",
        "d800",
        "\\ud83d\\ude00",
        "é",
        "\x01",
    ]
)


@CALM
@given(value=st.lists(PIECES, max_size=14).map("".join) | st.text())
def test_a_value_is_accepted_exactly_where_strict_json_is(value: str) -> None:
    line = '{"jsonrpc":"2.0","method":"m","x":' + value.replace("\n", "") + "}"
    try:
        strict(line.encode())
    except (ValueError, UnicodeEncodeError):
        with pytest.raises(ProtocolError):
            read_head(line.encode())
    else:
        for read in (read_head, decode_message):
            try:
                read(line.encode())
            except ProtocolError as error:  # what was put in may be members of their own
                assert "jsonrpc" in value or "method" in value or '"id"' in value, error


@CALM
@given(st.binary())
def test_garbage_gives_a_value_or_our_error(data: bytes) -> None:
    for line in (data, b'{"jsonrpc":"2.0","id":1,"result":' + data + b"}", b'{"jsonrpc":"2.0",' + data):
        for read in (decode_message, read_head):
            with suppress(ProtocolError):
                assert isinstance(read(line), Message | Head)
        batch = split_batch(line)
        assert batch is None or all(item.endswith(b"\n") for item in batch)


def depth_of(line: bytes) -> int:
    """By hand, one byte after the other."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in line.decode():
        if in_string:
            in_string = escaped or byte != '"'
            escaped = byte == "\\" and not escaped
        elif byte == '"':
            in_string = True
        elif byte in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in "]}":
            depth -= 1
    return deepest


VALUES = st.recursive(
    st.text('[]{}"\\a') | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


@CALM
@given(value=VALUES, limit=st.integers(0, 6))
def test_the_depth_is_what_counting_brackets_by_hand_finds(value: object, limit: int) -> None:
    line = json.dumps(value).encode()
    assert nests_deeper_than(line, limit) is (depth_of(line) > limit)


@pytest.mark.parametrize(
    ("line", "items"),
    [
        (b'[{"a":1}, {"b":[2]} ]', [b'{"a":1}\n', b'{"b":[2]}\n']),
        (b" \t[1]\n", [b"1\n"]),
        (b"[]", []),
        (b"{}", None),
        (b"[1", None),
        (b"[NaN]", None),
        (b'["\xff"]', None),
        (b"[" * 600 + b"]" * 600, None),
    ],
)
def test_a_batch_is_split_into_frames(line: bytes, items: list[bytes] | None) -> None:
    assert split_batch(line) == items


@pytest.mark.parametrize("raw", [b"", b"7", b"[]", b'"x"', b"null"])
def test_what_is_no_object_has_no_members(raw: bytes) -> None:
    assert decode_object(raw) == {}
    assert decode_text(msgspec.Raw(raw)) == ("x" if raw == b'"x"' else None)


def test_our_own_frames_are_single_lines_without_what_is_absent() -> None:
    assert encode_request("a", "m") == b'{"jsonrpc":"2.0","id":"a","method":"m"}\n'
    assert encode_request(1, "m", msgspec.Raw(b"{}")).endswith(b'"method":"m","params":{}}\n')
    assert encode_notification("m") == b'{"jsonrpc":"2.0","method":"m"}\n'
    assert encode_notification("m", {"a": "\n"}) == b'{"jsonrpc":"2.0","method":"m","params":{"a":"\\n"}}\n'
    assert encode_result(1, {}) == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
    assert (
        encode_error(None, -1, "x", {"a": 1})
        == b'{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x","data":{"a":1}}}\n'
    )
