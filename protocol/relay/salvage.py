"""What a child wrote that cannot be passed on: too long, or no message. Nobody waits in vain for it."""

import re
from collections.abc import Callable, Sequence

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.call import Call, Reason, lost_error
from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.framing import Frame, IdScanner, Oversized
from mcpkeep.protocol.relay.jsonrpc import INVALID_REQUEST, RequestId, encode_error, split_batch
from mcpkeep.protocol.relay.link import Link, Purpose
from mcpkeep.protocol.relay.listing import Listing
from mcpkeep.protocol.relay.notices import Notices
from mcpkeep.protocol.relay.output import Output, OwnAnswered
from mcpkeep.protocol.relay.succession import Succession
from mcpkeep.protocol.switch import ChildRefused, ChildWedged

__all__ = ["Salvage"]

_OBJECT = re.compile(rb'\s*\{\s*["}]')
_MESSAGE = re.compile(rb'\{\s*"(?:jsonrpc|id|method|params|result|error)"\s*:')


class Salvage:
    def __init__(
        self,
        out: Output,
        *,
        calls: Calls,
        succession: Succession,
        notices: Notices,
        listing: Listing,
        carry: Callable[[int, Sequence[Frame], float], None],
        max_message: int,
    ) -> None:
        """`carry` takes a child's lines that turn out to be messages after all."""
        self._out = out
        self._calls = calls
        self._succession = succession
        self._notices = notices
        self._listing = listing
        self._carry = carry
        self._max_message = max_message

    def oversized(self, link: Link, frame: Oversized) -> None:
        """Say what was dropped: to whoever waits for it, else to the log."""
        what = f"a message of {frame.size} bytes, above `limits.max_message` = {self._max_message}"
        self._out.log("warning", f"the server wrote {what}; dropped")
        call = self._calls.table.get(frame.id) if frame.id is not None else None
        if frame.is_request:
            if frame.id is not None:
                error = encode_error(frame.id, INVALID_REQUEST, f"mcpkeep does not carry {what}")
                self._out.to_child(link, error)
        elif call is not None and call.generation == link.generation:
            self.replace_answer(link, call, Reason.TOO_LARGE, f"The answer to {call.method} is {what}.")
        elif frame.id is None:
            if not link.is_wedged:
                link.is_wedged = True
                self._out.effects.append(ChildWedged(link.generation, f"it wrote {what}, whose id is lost"))
        else:
            self.own_lost(link, frame.id, what)

    def bad_line(self, link: Link, line: bytes, error: ProtocolError, now: float) -> None:
        """Carry what can be read after all: a batch, or a message behind a BOM or a printed text."""
        shown = f"the server wrote a line of {len(line)} bytes that is no message ({error}): {line[:200]!r}"
        batch = split_batch(line)
        if batch:
            for item in batch:
                if item.startswith(b"["):
                    self._out.log("warning", shown)
                else:
                    self._carry(link.generation, [item], now)
            return
        start = None if _OBJECT.match(line) else _MESSAGE.search(line)
        if start is not None:
            self._out.log("warning", f"{shown}; the message in it is carried")
            self._carry(link.generation, [line[start.start() :]], now)
            return
        self._out.log("warning", shown)
        scanner = IdScanner()
        scanner.feed(line)
        call = self._calls.table.get(scanner.id) if scanner.id is not None and b'"jsonrpc"' in line else None
        if call is not None and call.generation == link.generation and not scanner.is_request:
            text = f"The MCP server's answer to {call.method} is not valid JSON-RPC ({error})."
            self.replace_answer(link, call, Reason.INVALID, text)
        elif scanner.is_request and scanner.id is not None and b'"jsonrpc"' in line:
            text = f"mcpkeep cannot carry this request: {error}"
            self._out.to_child(link, encode_error(scanner.id, INVALID_REQUEST, text))
        elif not scanner.is_request:
            self.own_lost(link, scanner.id, f"a line that is no message ({error})")

    def replace_answer(self, link: Link, call: Call, reason: Reason, text: str) -> None:
        """Answer a call with an error in place of what the child said."""
        self._calls.remove(call)
        self._out.client.append(lost_error(call.id, reason, what=call.method, retryable=False, advice=text))
        self._succession.check_drained(link)

    def own_lost(self, link: Link, id_: RequestId | None, what: str) -> None:
        """The child answered our own request with what cannot be carried."""
        own = link.own.pop(id_, None) if isinstance(id_, str) else None
        if own is not None and own.purpose is Purpose.OPEN:
            reason = f"it answers the opening request with {what}"
            self._out.effects.append(ChildRefused(link.generation, reason))
        elif own is not None and own.purpose is Purpose.ASKED and isinstance(id_, str):
            self._out.effects.append(OwnAnswered(id_, lost=f"the server answered with {what}"))
        elif own is not None and own.compare and link is self._succession.serving:
            self._notices.tell_change(self._listing.unknown(own.method))
