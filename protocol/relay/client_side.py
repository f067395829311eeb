"""What the client says: carried to the child that serves, held for one to come, or answered here."""

from collections.abc import Sequence

from msgspec import UNSET, Raw

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.call import Call
from mcpkeep.protocol.relay.framing import Frame, IdScanner, Oversized
from mcpkeep.protocol.relay.head import NO_META, Head, Params, read_head
from mcpkeep.protocol.relay.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    RequestId,
    decode_message,
    encode_error,
    encode_result,
    odd_id,
    split_batch,
)
from mcpkeep.protocol.relay.link import Link
from mcpkeep.protocol.relay.mcp import LIST_KINDS, LOSS, Era, Loss
from mcpkeep.protocol.relay.own_calls import OwnCalls
from mcpkeep.protocol.relay.side import Between, Side

__all__ = ["ClientSide"]


class ClientSide(Side):
    def __init__(self, between: Between, *, own_calls: OwnCalls, own_prefix: str) -> None:
        """`own_prefix` begins the ids of our own requests."""
        super().__init__(between)
        self._own_calls = own_calls
        self._own_prefix = own_prefix

    def take(self, frames: Sequence[Frame], now: float) -> None:
        """Lines of the client, in order."""
        for frame in frames:
            if isinstance(frame, Oversized):
                text = f"the message of {frame.size} bytes is larger than `limits.max_request` allows"
                self._refuse(frame.id, INVALID_REQUEST, text, is_answer=not frame.is_request)
                continue
            try:
                head = read_head(frame)
            except ProtocolError as error:
                self._bad_line(frame, error, now)
                continue
            if head.method is None:
                self._answers(head, frame)
            elif head.id is UNSET:
                self._notifies(head.method, head.params, frame)
            else:
                assert head.id is not None  # read_head refuses it
                self._requests(head.id, head.method, head.params, frame, now)

    def _requests(self, id_: RequestId, method: str, params: Params, line: bytes, now: float) -> None:
        if id_ in self._table or (isinstance(id_, str) and id_.startswith(self._own_prefix)):
            text = f"the id {id_!r} is in use by a request that is not answered yet"
            self._out.client.append(encode_error(id_, INVALID_REQUEST, text))
            return
        call = Call(id_, method, line, LOSS.get(method, Loss.ERROR), now, params.name)
        if params.meta is not NO_META:
            self._note_meta(call, params)
        if method == "tools/call":
            call.is_task = params.task is not UNSET
            if params.name in self._listing.own:
                self._own_calls.begin(call)
                return
        elif self._answers_itself(call, params):
            return
        self._table[id_] = call
        if call.log_level is not None:
            self._notices.listens()
        self._health.used(now)
        link = self._succession.serving
        if params.request_state is not None or params.task_id is not None:
            link = self._bound_link(call, params)
        if id_ not in self._table:
            return
        if (
            link is not None
            and link.is_open
            and (call.bound or not (self._succession.holding and link is self._succession.serving))
        ):
            if method == "tools/call" and params.name not in self._listing.tools:
                self._takeover.learn_tools(link)  # ahead of it: many servers do one thing at a time
            self._calls.send(call, link)
        elif (unavailable := self._succession.unavailable) is not None:
            self._calls.hold(call, now)
            self._calls.fail_unavailable(call, unavailable.exit, unavailable.detail)
        else:
            self._calls.hold(call, now)

    def _note_meta(self, call: Call, params: Params) -> None:
        meta = params.meta
        call.progress_token, call.log_level = meta.progress_token, meta.log_level
        if meta.protocol_version is not None and self._opening.era is not Era.MODERN:
            self._opening.client_requests(decode_message(call.frame).params)

    def _bound_link(self, call: Call, params: Params) -> Link | None:
        """The child that minted the state or task which this request names, while it lives."""
        bound = self._bound.generation(params)
        link = self._links.get(bound)
        if link is not None and link.is_drained:
            link = None
        if bound and params.request_state is not None:
            call.bound = bound
            if link is None:
                self._calls.fail_bound(call)
        return link or self._succession.serving

    def _answers_itself(self, call: Call, params: Params) -> bool:
        """Note what this request says of the session; answer it here if it is not for the child."""
        capabilities = self._succession.serving.capabilities if self._succession.serving is not None else None
        answer: Raw | None = None
        match call.method:
            case "ping":
                answer = Raw(b"{}")
            case "initialize":
                self._opening.client_initializes(decode_message(call.frame).params)
            case "server/discover":
                self._opening.client_requests(decode_message(call.frame).params)
            case "logging/setLevel":
                call.subject = params.level
                if capabilities is not None and "logging" not in capabilities:
                    self._succession.share(call)
                    answer = Raw(b"{}")
            case "resources/subscribe" | "resources/unsubscribe" | "resources/read":
                call.subject = params.uri
            case method if method in LIST_KINDS:
                call.first_page = params.cursor is None
                if not call.first_page:
                    call.loss = Loss.ERROR
                elif method == "tools/list" and capabilities is not None and "tools" not in capabilities:
                    answer = self._listing.without_child(self._opening.era)
            case _:
                pass
        if answer is not None:
            self._out.client.append(encode_result(call.id, answer))
        return answer is not None

    def _notifies(self, method: str, params: Params, line: bytes) -> None:
        targets: list[Link] = []
        match method:
            case "notifications/cancelled":
                call = self._calls.cancel(params.request_id)
                if call is not None:
                    targets = [link for link in self._links.values() if link.generation == call.generation]
            case "notifications/progress":
                answer = self._minted.client_progress(params.progress_token, line)
                if answer is not None:
                    self._to_generation(*answer)
            case "notifications/initialized" | "notifications/roots/list_changed":
                self._opening.initialized |= method == "notifications/initialized"
                self._notices.listens()
                targets = [link for link in self._links.values() if link.is_open]
            case _ if self._succession.serving is not None and self._succession.serving.is_open:
                targets = [self._succession.serving]
            case _:
                self._out.log("info", f"no MCP server is up to take the client's {method}; dropped")
        for link in targets:
            self._out.to_child(link, line)
            self._succession.check_drained(link)

    def _answers(self, head: Head, line: bytes) -> None:
        if self._own_requests.client_answered(head, line):
            return
        answer = self._minted.answer(head.id, line) if head.id is not UNSET and head.id is not None else None
        if answer is None:
            self._out.log("debug", f"the client answers {head.id!r}, which no server waits for; dropped")
        else:
            self._to_generation(*answer)

    def _to_generation(self, generation: int, frame: bytes) -> None:
        if (link := self._links.get(generation)) is not None:
            self._out.to_child(link, frame)

    def _bad_line(self, line: bytes, error: ProtocolError, now: float) -> None:
        batch = split_batch(line)
        for item in batch or ():
            if item.startswith(b"["):  # not split again: nested batches would nest our calls as deep
                self._refuse_line(item, error)
            else:
                self.take([item], now)
        if not batch:
            self._refuse_line(line, error)

    def _refuse_line(self, line: bytes, error: ProtocolError) -> None:
        scanner = IdScanner()
        scanner.feed(line)
        if scanner.id is None and (odd := odd_id(line)) is not None:
            text = f"an id must be a string or an integer, and this one is {bytes(odd).decode()}"
            self._out.client.append(encode_error(odd, INVALID_REQUEST, text))
            return
        is_batch = line.lstrip().startswith(b"[") and split_batch(line) is not None
        code = PARSE_ERROR if scanner.id is None and not is_batch else INVALID_REQUEST
        text = f"the client's message cannot be carried: {error}"
        self._refuse(scanner.id, code, text, is_answer=not scanner.is_request)

    def _refuse(self, id_: RequestId | None, code: int, text: str, *, is_answer: bool) -> None:
        """Answer the client's line with an error; where it was an answer, so does the child that waits."""
        if is_answer and id_ is not None:
            answer = self._minted.answer(id_, encode_error(id_, INTERNAL_ERROR, text))
            if answer is not None:
                self._to_generation(*answer)
            self._own_requests.client_failed(id_, text)
        self._out.client.append(encode_error(id_, code, text))
