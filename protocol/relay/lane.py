"""The shortest way through the relay: plain tool calls to the child that serves, and their answers back.

Nothing here is a rule of its own. It does what the relay does with such frames, without the questions whose
answers are known while one child serves, is ready, and nothing is being replaced.
"""

from collections.abc import Sequence

from msgspec import UNSET

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.framing import Frame
from mcpkeep.protocol.relay.head import NO_META, Head, read_head
from mcpkeep.protocol.relay.health import Health
from mcpkeep.protocol.relay.link import Link
from mcpkeep.protocol.relay.listing import Listing
from mcpkeep.protocol.relay.mcp import Era, Loss
from mcpkeep.protocol.relay.opening import Opening

__all__ = ["Lane"]

_LONGEST = 32 * 1024
"""Bytes; what takes longer to move than to look at twice gains nothing here."""


class Lane:
    """Open while `link` is set; whoever decides which child serves sets it."""

    def __init__(
        self, table: dict[object, Call], *, listing: Listing, opening: Opening, health: Health
    ) -> None:
        self.link: Link | None = None
        self._table = table
        self._listing = listing
        self._opening = opening
        self._health = health

    def calls(self, frames: Sequence[Frame], now: float) -> list[bytes]:
        """The client's first frames as far as they are plain calls: noted as sent, for `link`."""
        passed: list[bytes] = []
        for frame in frames:
            if (head := self.plain_call(frame)) is None or not isinstance(frame, bytes):
                break
            self._note(frame, head, now)
            passed.append(frame)
        if passed:
            self._health.used(now)
        return passed

    def plain_call(self, frame: Frame) -> Head | None:
        """The head of a client's frame that goes to `link` as it is; to be noted next."""
        if self.link is None or not isinstance(frame, bytes) or len(frame) > _LONGEST:
            return None
        try:
            head = read_head(frame)
        except ProtocolError:
            return None
        id_, params = head.id, head.params
        if (
            head.method != "tools/call"
            or params.name not in self._listing.tools
            or not isinstance(id_, int)
            or id_ in self._table
            or params.task is not UNSET
            or params.request_state is not None
            or (params.meta.protocol_version is not None and self._opening.era is not Era.MODERN)
        ):
            return None
        return head

    def note_call(self, frame: bytes, head: Head, now: float) -> None:
        """The plain call is on its way; nothing was read since."""
        self._note(frame, head, now)
        self._health.used(now)

    def _note(self, frame: bytes, head: Head, now: float) -> None:
        link, id_, params = self.link, head.id, head.params
        assert link is not None
        assert isinstance(id_, int)
        link.sent += len(frame)
        # In the order of its fields: with keywords it takes twice as long.
        self._table[id_] = call = Call(
            id_,
            "tools/call",
            frame,
            Loss.CALL,
            now,
            params.name,
            link.generation,
            link.sent,
            link.asked,
            1,
        )
        meta = params.meta
        if meta is not NO_META:
            call.progress_token, call.log_level = meta.progress_token, meta.log_level

    def answers(self, generation: int, frames: Sequence[Frame], now: float) -> list[bytes]:
        """The child's first frames as far as they are plain answers: noted as given, for the client."""
        passed: list[bytes] = []
        for frame in frames:
            if (call := self.plain_answer(generation, frame)) is None or not isinstance(frame, bytes):
                break
            del self._table[call.id]
            passed.append(frame)
        if passed:
            self._health.heard(now)
        return passed

    def plain_answer(self, generation: int, frame: Frame) -> Call | None:
        """The call whose answer a child's frame is, and goes to the client as it is; to be noted next."""
        link = self.link
        if (
            link is None
            or link.generation != generation
            or not isinstance(frame, bytes)
            or len(frame) > _LONGEST
        ):
            return None
        try:
            head = read_head(frame)
        except ProtocolError:
            return None
        call = self._table.get(head.id)
        result = head.result
        if (
            call is None
            or head.method is not None
            or call.generation != generation
            or call.loss is not Loss.CALL
            or result is None
            or result.request_state is not None
            or result.task is not None
            or call.subject in self._listing.gone
        ):
            return None
        return call

    def note_answer(self, call: Call, now: float) -> None:
        """The call's plain answer is on its way."""
        del self._table[call.id]
        self._health.heard(now)
