"""JSON-RPC 2.0 on a line: the strict check, the lenient envelope, and the frames that mcpkeep writes itself.

A frame is one line with its newline. What is not looked at stays `msgspec.Raw`, and an unchanged message
goes on as the bytes it came as.
"""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpkeep.protocol.errors import ProtocolError

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "MAX_DEPTH",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "ErrorBody",
    "JsonObject",
    "Message",
    "RequestId",
    "check_text",
    "decode_message",
    "decode_object",
    "decode_text",
    "encode_error",
    "encode_notification",
    "encode_object",
    "encode_request",
    "encode_result",
    "nests_deeper_than",
    "odd_id",
    "split_batch",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

MAX_DEPTH = 512
"""Nesting that is still carried: half of what msgspec and CPython's own parser can take."""

RequestId: TypeAlias = int | str
JsonObject: TypeAlias = dict[str, Raw]
"""A JSON object whose members are not decoded."""

NO_RAW = Raw()


class Message(msgspec.Struct, gc=False):
    """The lenient envelope of a request, notification or response; which one it is, its members tell."""

    jsonrpc: Literal["2.0"]
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Raw = NO_RAW
    result: Raw = NO_RAW
    error: Raw = NO_RAW


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """The `error` member of a response."""

    code: int
    message: str
    data: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(Message).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_batch = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.encode
_STRING = re.compile(rb'"[^"]*"')
_ODD_ID = re.compile(rb"[-\d][^\s]{0,299}|null")
_BRACKETS_AND_QUOTES = bytes.maketrans(b"{}", b"[]")
_ALL_ELSE = bytes(set(range(256)) - set(b'{}[]"'))


def check_text(line: bytes) -> None:
    """Check what msgspec lets pass: it takes invalid UTF-8, and any depth below its own recursion limit.

    `NaN`, lone surrogates and all other breaches of JSON it refuses itself.

    Raises:
        UnicodeDecodeError: the line is not UTF-8.
        ProtocolError: it is nested deeper than MAX_DEPTH.
    """
    if not line.isascii():
        line.decode()
    if len(line) > MAX_DEPTH and nests_deeper_than(line, MAX_DEPTH):
        raise ProtocolError(f"the message is nested deeper than {MAX_DEPTH} levels")


def decode_message(line: bytes) -> Message:
    """Check one line strictly and decode its envelope.

    Raises:
        ProtocolError: it is not UTF-8, not JSON, nested deeper than MAX_DEPTH, or not one JSON-RPC object.
    """
    try:
        check_text(line)
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(str(error)) from error


def decode_object(raw: Raw | bytes) -> JsonObject:
    """Decode one JSON object by one level; `{}` for what is absent or not an object."""
    if not len(memoryview(raw)):
        return {}
    try:
        return _decode_object(raw)
    except msgspec.DecodeError:
        return {}


def decode_text(raw: Raw | None) -> str | None:
    """Decode one JSON string; None for what is absent or something else."""
    try:
        return msgspec.json.decode(raw, type=str) if raw is not None else None
    except msgspec.DecodeError:
        return None


def odd_id(line: bytes) -> Raw | None:
    """The id of one JSON object where it is a number of up to 300 bytes or null, as it was written."""
    try:
        check_text(line)
        id_ = _decode_object(line).get("id")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ProtocolError):
        return None
    return id_ if id_ is not None and _ODD_ID.fullmatch(bytes(id_)) else None


def split_batch(line: bytes) -> list[bytes] | None:
    """The messages of a batch as frames of their own (2025-03-26), or None where `line` is no array."""
    if not line.lstrip(b" \t").startswith(b"["):
        return None
    try:
        check_text(line)
        return [bytes(item) + b"\n" for item in _decode_batch(line)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ProtocolError):
        return None


def nests_deeper_than(line: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest deeper than `limit`; exact for valid JSON.

    Each step is one pass in C: with the strings gone, removing the innermost pairs once lowers the depth
    by exactly one.
    """
    if not _holds_more_than(line, limit):
        return False
    if b"\\" in line:
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = line.translate(_BRACKETS_AND_QUOTES, _ALL_ELSE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", brackets)
    for _ in range(limit):
        shallower = brackets.replace(b"[]", b"")
        if len(shallower) == len(brackets):
            break
        brackets = shallower
    return len(brackets) > 0


def _holds_more_than(line: bytes, limit: int) -> bool:
    """Whether there are more than `limit` opening brackets at all, strings included."""
    seen = 0
    for bracket in (b"[", b"{"):
        at = line.find(bracket)
        while at >= 0:
            seen += 1
            if seen > limit:
                return True
            at = line.find(bracket, at + 1)
    return False


def encode_object(members: Mapping[str, object]) -> Raw:
    return Raw(_encode(members))


def encode_request(id_: RequestId, method: str, params: Raw | None = None) -> bytes:
    message: dict[str, object] = {"jsonrpc": "2.0", "id": id_, "method": method}
    if params is not None and len(memoryview(params)):
        message["params"] = params
    return _encode(message) + b"\n"


def encode_notification(method: str, params: Raw | Mapping[str, object] | None = None) -> bytes:
    message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return _encode(message) + b"\n"


def encode_result(id_: RequestId, result: Raw | Mapping[str, object]) -> bytes:
    return _encode({"jsonrpc": "2.0", "id": id_, "result": result}) + b"\n"


def encode_error(
    id_: RequestId | Raw | None, code: int, message: str, data: Mapping[str, object] | None = None
) -> bytes:
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encode({"jsonrpc": "2.0", "id": id_, "error": error}) + b"\n"
