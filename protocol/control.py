"""The control socket's language: one question per connection, steps while it is worked on, then the answer.

Or, in place of a question, `Follow`: the holder tells of each move of its server until one of the two ends.
Each frame is four bytes of length, big-endian, and that many bytes of MessagePack. The questions are the
actors' own messages.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.upgrade.request import UpgradeAnswer, UpgradeMessage

__all__ = [
    "MAX_FRAME",
    "Answered",
    "Ask",
    "ControlError",
    "Follow",
    "Followed",
    "Frames",
    "FromServer",
    "Moved",
    "NotAnswered",
    "Stepped",
    "encode_frame",
]

MAX_FRAME = 256 * 2**20
"""Bytes: a plan with the diffs of tens of thousands of files."""
_LENGTH = 4

Frame = TypeVar("Frame")


class ControlError(McpkeepError):
    """The other side does not speak this language, or not to the end."""


class Ask(msgspec.Struct, frozen=True, tag="control.ask"):
    """The one question of a connection."""

    question: UpgradeMessage


class Stepped(msgspec.Struct, frozen=True, tag="control.stepped"):
    """The work on it begins a step."""

    session_id: str
    step: str


class Answered(msgspec.Struct, frozen=True, tag="control.answered"):
    """The answer; nothing follows."""

    answer: UpgradeAnswer


class NotAnswered(msgspec.Struct, frozen=True, tag="control.not_answered"):
    """There is no answer, and why; nothing follows."""

    reason: str


class Follow(msgspec.Struct, frozen=True, tag="control.follow"):
    """Another window wants to be told of each move of the holder's server to a release, or to a new index."""


class Moved(msgspec.Struct, frozen=True, tag="control.moved"):
    """The holder's server was moved for the `number`th time; the first word says how often it had been."""

    number: int


class Followed(msgspec.Struct, frozen=True, tag="control.followed"):
    """That window's server has followed this move, or cannot."""

    number: int


FromServer = Stepped | Answered | NotAnswered


def encode_frame(message: msgspec.Struct, *, most: int = MAX_FRAME) -> bytes:
    """One frame. Raises ControlError where it is larger than `most`, in bytes."""
    data = msgspec.msgpack.encode(message)
    if len(data) > most:
        raise ControlError(f"a message of {len(data)} bytes is more than the {most} of a frame")
    return len(data).to_bytes(_LENGTH, "big") + data


class Frames(Generic[Frame]):
    """Cuts what is read into frames, however it comes in pieces."""

    def __init__(self, decoder: "msgspec.msgpack.Decoder[Frame]", *, most: int = MAX_FRAME) -> None:
        self._decoder = decoder
        self._most = most
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises ControlError for what is none."""
        self._rest += data
        while len(self._rest) >= _LENGTH:
            size = int.from_bytes(self._rest[:_LENGTH], "big")
            if size > self._most:
                raise ControlError(f"a frame of {size} bytes is more than {self._most}")
            if len(self._rest) < _LENGTH + size:
                return
            body = bytes(self._rest[_LENGTH : _LENGTH + size])
            del self._rest[: _LENGTH + size]
            try:
                yield self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ControlError(f"a frame cannot be read: {error}") from error
