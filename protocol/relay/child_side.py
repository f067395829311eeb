"""What a child says: carried to the client, noted if it says something of the session, or answered here."""

from collections.abc import Sequence
from typing import assert_never

from msgspec import UNSET, Raw

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.framing import Frame, Oversized
from mcpkeep.protocol.relay.head import Head, Params, read_head
from mcpkeep.protocol.relay.jsonrpc import RequestId, decode_message, encode_result
from mcpkeep.protocol.relay.link import Link, Purpose
from mcpkeep.protocol.relay.listens import acknowledge, listens_updated
from mcpkeep.protocol.relay.mcp import LIST_KINDS, Era
from mcpkeep.protocol.relay.opening import capabilities_of
from mcpkeep.protocol.relay.salvage import Salvage
from mcpkeep.protocol.relay.side import Between, Side
from mcpkeep.protocol.switch import ChildRefused

__all__ = ["ChildSide"]

_SETTING = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
_NOTED = frozenset({"initialize", "server/discover", *LIST_KINDS}) | _SETTING
"""The methods whose answers say something of the session, or are not passed on as they are."""

_SERVED_FOR = {"logging/setLevel": "logging", "tools/list": "tools"}
"""What we announce whether or not the child has it, and by which capability that shows."""

_LIST_CHANGED = frozenset(kind.changed for kind in LIST_KINDS.values())


class ChildSide(Side):
    def __init__(self, between: Between, *, max_message: int) -> None:
        """`max_message` is the longest line that is passed on, in bytes; told where one is dropped."""
        super().__init__(between)
        self._salvage = Salvage(
            between.out,
            calls=between.calls,
            succession=between.succession,
            notices=between.notices,
            listing=between.listing,
            carry=self.take,
            max_message=max_message,
        )

    def take(self, generation: int, frames: Sequence[Frame], now: float) -> None:
        """Lines of a child, in order."""
        link = self._links.get(generation)
        if link is None:
            return
        if link is self._succession.serving:
            self._health.heard(now)
        for frame in frames:
            if isinstance(frame, Oversized):
                self._salvage.oversized(link, frame)
                continue
            try:
                head = read_head(frame)
            except ProtocolError as error:
                self._salvage.bad_line(link, frame, error, now)
                continue
            if head.method is None:
                self._answers(link, head, frame)
            elif head.id is UNSET:
                self._notifies(link, head.method, head.params, frame)
            else:
                assert head.id is not None  # read_head refuses it
                self._requests(link, head.id, head.method, head.params, frame)

    def _answers(self, link: Link, head: Head, line: bytes) -> None:
        call = self._table.get(head.id)
        if call is None or call.generation != link.generation:
            self._own_answered(link, head, line)
            return
        del self._table[call.id]
        result = head.result
        if result is not None:
            if not link.is_ready:
                self._opening_answered(link, call, line)
            if call.method in _NOTED:
                line = self._note_answer(call, link, line)
            if result.request_state is not None or result.task is not None:
                self._bound.note(result, link.generation)
        elif call.method in _SERVED_FOR:
            line = self._serve_for(call, link, line)
        if call.subject in self._listing.gone:
            line = self._listing.tell_gone(call, line)
        self._out.client.append(line)
        if link.is_draining or self._succession.holding:
            self._succession.check_drained(link)

    def _opening_answered(self, link: Link, call: Call, line: bytes) -> None:
        """The client's own opening request has its answer: the session is open with this child."""
        if call.method in ("initialize", "server/discover"):
            link.capabilities = capabilities_of(decode_message(line).result)
        elif self._opening.era is Era.LEGACY:
            return
        if self._opening.era is Era.MODERN:
            self._opening.settle()
        self._succession.ready(link)

    def _note_answer(self, call: Call, link: Link, line: bytes) -> bytes:
        """Remember what this answer says of the session; the frame as the client gets it."""
        if call.method in _SETTING:
            self._succession.share(call)
            return line
        result = decode_message(line).result
        if call.method in LIST_KINDS:
            page = self._listing.page(call.method, result, first=call.first_page, era=self._opening.era)
            if call.method == "tools/list" and (hidden := self._listing.hidden_names()):
                self._out.log("info", f"mcpkeep's tools stand for the server's own {', '.join(hidden)}")
            if link is not self._succession.serving:
                self._succession.list_again((call.method,))
        else:
            page = self._opening.child_answers(result)
        return line if page is result else encode_result(call.id, page)

    def _serve_for(self, call: Call, link: Link, line: bytes) -> bytes:
        """A request that waited for this child, which cannot answer it: what we announced, we serve."""
        if link.capabilities is None or _SERVED_FOR[call.method] in link.capabilities:
            return line
        if call.method == "logging/setLevel":
            self._succession.share(call)
            return encode_result(call.id, Raw(b"{}"))
        if not call.first_page:
            return line
        return encode_result(call.id, self._listing.without_child(self._opening.era))

    def _own_answered(self, link: Link, head: Head, line: bytes) -> None:
        own = link.own.pop(head.id, None) if isinstance(head.id, str) else None
        if own is None:
            self._out.log("debug", f"the server answers {head.id!r}, which nobody waits for; dropped")
            return
        match own.purpose:
            case Purpose.OPEN:
                refusal = self._takeover.opened(link, head, line)
                if refusal is None:
                    self._succession.ready(link)
                else:
                    self._out.effects.append(ChildRefused(link.generation, refusal))
            case Purpose.LIST:
                if link is self._succession.serving:
                    self._notices.tell_change(self._takeover.listed(link, own, head, line))
            case Purpose.ASKED:
                self._own_requests.child_answered(str(head.id), head, line)
            case Purpose.STANDING | Purpose.HEALTH:
                pass
            case _:
                assert_never(own.purpose)

    def _notifies(self, link: Link, method: str, params: Params, line: bytes) -> None:
        serves = link is self._succession.serving or link.is_draining
        match method:
            case "notifications/progress":
                call = self._call_of(params.progress_token, link)
                if call is not None:
                    call.progressed = True
                if call is None and link is not self._succession.serving:
                    return
            case "notifications/cancelled":
                frame = self._minted.child_cancels(link.generation, params.request_id, line)
                if frame is not None:
                    self._out.client.append(frame)
                return
            case "notifications/subscriptions/acknowledged":
                self._acknowledge(link, params, line)
                return
            case _ if method in _LIST_CHANGED:
                if link is not self._succession.serving:
                    return
            case _ if not serves:
                return
            case _:
                pass
        self._out.client.append(line)

    def _call_of(self, token: RequestId | None, link: Link) -> Call | None:
        """The live call at `link` that this progress token belongs to; most clients use the id as token."""
        if token is None:
            return None
        call = self._table.get(token)
        if call is None or call.progress_token != token or type(call.id) is not type(token):
            call = next((call for call in self._calls if call.progress_token == token), None)
        return call if call is not None and call.generation == link.generation else None

    def _acknowledge(self, link: Link, params: Params, line: bytes) -> None:
        id_ = params.meta.subscription_id
        call = self._table.get(id_) if id_ is not None else None
        if call is None or call.generation != link.generation:
            return
        frame = acknowledge(call, line)
        self._out.client += [frame] if frame is not None else listens_updated(call)

    def _requests(self, link: Link, id_: RequestId, method: str, params: Params, line: bytes) -> None:
        if method == "ping":
            self._out.to_child(link, encode_result(id_, Raw(b"{}")))
            return
        link.asked += 1
        token = params.meta.progress_token
        self._out.client.append(self._minted.request(link.generation, line, id_, token))
