"""Bytes into lines: bounded memory whatever arrives, and the id of a line that was too long to keep.

MCP's stdio transport ends a message with `\\n` alone; U+2028 and U+0085 occur inside strings.
"""

import re
from itertools import accumulate
from typing import Literal, TypeAlias

import msgspec

__all__ = ["Frame", "IdScanner", "LineSplitter", "Oversized"]

_LOOSE_PARTS = 1024
"""Parts of a line kept apart; more are joined, since parts of a few bytes take 20 times their size."""


class Oversized(msgspec.Struct, frozen=True):
    """A line above the limit, dropped while it arrived."""

    size: int
    """Its length in bytes, without the newline."""
    id: int | str | None
    """The top-level `id`, where it has one that can be read."""
    is_request: bool
    """It has a top-level `method`, so that it asks rather than answers."""


Frame: TypeAlias = bytes | Oversized


class LineSplitter:
    """Cut a byte stream into lines of at most `limit` bytes, each with its newline.

    A line ending in `\\r\\n` loses its `\\r`; blank lines vanish. A longer line is scanned and dropped as it
    arrives, and stands in the result as Oversized.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._joined = 0
        """How many of the parts, from the first, are many small ones made one."""
        self._length = 0
        self._scanner: IdScanner | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The lines that `data` completes."""
        if not self._length and data.find(b"\n") == len(data) - 1 and 1 < len(data) <= self._limit:
            return [data] if data[-2] > 32 else self._finished(data)
        frames: list[Frame] = []
        start = 0
        while (end := data.find(b"\n", start) + 1) > 0:
            self._keep(data[start:end] if start or end < len(data) else data)
            frames += self._take()
            start = end
        if start < len(data):
            self._keep(data[start:] if start else data)
        return frames

    def end(self) -> list[Frame]:
        """What stands unfinished at the end of the stream, as a line if there is anything."""
        if not self._length:
            return []
        self._keep(b"\n")
        return self._take()

    def _keep(self, part: bytes) -> None:
        self._length += len(part)
        if self._scanner is None and self._length > self._limit + 1:
            self._scanner = IdScanner()
            for kept in self._parts:
                self._scanner.feed(kept)
            self._parts.clear()
            self._joined = 0
        if self._scanner is None:
            self._parts.append(part)
            if len(self._parts) - self._joined > _LOOSE_PARTS:
                self._parts[self._joined :] = [b"".join(self._parts[self._joined :])]
                self._joined += 1
        else:
            self._scanner.feed(part)

    def _take(self) -> list[Frame]:
        length, scanner, self._scanner, self._length = self._length, self._scanner, None, 0
        if scanner is not None:
            return [Oversized(size=length - 1, id=scanner.id, is_request=scanner.is_request)]
        line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._joined = 0
        return self._finished(line)

    @staticmethod
    def _finished(line: bytes) -> list[Frame]:
        if line.endswith(b"\r\n"):
            line = line[:-2] + b"\n"
        return [line] if not line.isspace() else []


class IdScanner:
    """Find the top-level `id` and whether there is a `method`, without keeping the line.

    Tolerant: it follows strings and brackets and trusts nothing else, so it also reads what a strict
    parser refuses. Feed it in pieces of any size.
    """

    _STRUCTURE = re.compile(rb'["{}\[\],:]')
    _STRING_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
    _WHOLE_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
    _STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
    _NO_STEP = bytes(set(range(256)) - set(b"[{]}"))
    _KEPT = 300
    """Bytes kept of a key or an id; longer ones are not ours to answer."""

    def __init__(self) -> None:
        self.id: int | str | None = None
        self.is_request = False
        self._depth = 0
        self._rest = b""
        self._in_string = False
        self._token = bytearray()
        self._key: bytes | None = None
        self._reading: Literal["key", "value"] = "key"

    def feed(self, data: bytes) -> None:
        data, at, skipped = self._rest + data, 0, False
        self._rest = b""
        while at < len(data):
            if self._in_string:
                at = self._string(data, at)
            elif self._depth > 1 and not skipped:
                skipped = True
                at = self._skip_nested(data, at)
            else:
                at = self._structure(data, at)

    def _string(self, data: bytes, at: int) -> int:
        match = self._STRING_REST.match(data, at)
        end = match.end() if match else at
        if end < len(data) and data[end] == 0x5C:  # a backslash whose second half has not come yet
            self._note(data[at:end])
            self._rest = data[end:]
            return len(data)
        self._note(data[at:end])
        if end < len(data):
            self._note(b'"')
            self._in_string = False
            end += 1
        return end

    def _structure(self, data: bytes, at: int) -> int:
        match = self._STRUCTURE.search(data, at)
        end = match.start() if match else len(data)
        self._note(data[at:end])
        if match is None:
            return end
        match data[end]:
            case 0x22:
                self._note(b'"')
                self._in_string = True
            case 0x7B | 0x5B:
                self._depth += 1
                self._token.clear()
            case 0x7D | 0x5D:
                if self._depth == 1:
                    self._member_ends()
                self._depth -= 1
                self._token.clear()
            case 0x3A if self._depth == 1:
                self._key = bytes(self._token).strip()
                self._token.clear()
                self._reading = "value"
                self.is_request |= self._key == b'"method"'
            case 0x2C if self._depth == 1:
                self._member_ends()
            case _:
                pass
        return end + 1

    def _member_ends(self) -> None:
        if self._reading == "value" and self._key == b'"id"':
            try:
                self.id = msgspec.json.decode(bytes(self._token), type=int | str)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.id = None
        self._token.clear()
        self._key = None
        self._reading = "key"

    def _note(self, piece: bytes) -> None:
        if self._depth == 1 and len(self._token) <= self._KEPT:
            self._token += piece[: self._KEPT + 1 - len(self._token)]

    def _skip_nested(self, data: bytes, at: int) -> int:
        """Past the rest of `data` in a few passes of C if all of it is nested; else `at`, unchanged."""
        outside, quote, unfinished = self._WHOLE_STRING.sub(b"", data[at:]).partition(b'"')
        steps = memoryview(outside.translate(self._STEPS, self._NO_STEP)).cast("b")
        if min(accumulate(steps, initial=self._depth)) < 2:
            return at
        self._depth += sum(steps)
        self._in_string = bool(quote)
        if (len(unfinished) - len(unfinished.rstrip(b"\\"))) % 2:
            self._rest = b"\\"
        return len(data)
