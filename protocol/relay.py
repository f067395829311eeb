"""The relay: everything between an MCP client and the child that serves it, without I/O.

Frames, orders and times come in; frames and effects come out through `output`. The hot path is a request
passed on and its answer passed back: one decode, one table entry, the same bytes. Everything else here
exists so that the client does not notice when the child is another one.
"""

import re
from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec import UNSET, Raw

from mcpkeep.protocol.call import HELD, OURS, Call, Reason, lost_error
from mcpkeep.protocol.calls import Calls
from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.framing import Frame, IdScanner, Oversized
from mcpkeep.protocol.head import NO_META, Head, Params, Result, read_head
from mcpkeep.protocol.health import Health, HealthSettings, Probe
from mcpkeep.protocol.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    RequestId,
    decode_message,
    decode_object,
    encode_error,
    encode_notification,
    encode_result,
    split_batch,
)
from mcpkeep.protocol.lane import Lane
from mcpkeep.protocol.link import Link, Purpose
from mcpkeep.protocol.listens import acknowledge, listens_changed, listens_updated
from mcpkeep.protocol.listing import Listing, ListingChange
from mcpkeep.protocol.mcp import LIST_KINDS, LOG_LEVELS, LOSS, Era, Loss
from mcpkeep.protocol.minted import Minted
from mcpkeep.protocol.opening import Opening, capabilities_of, has_envelope
from mcpkeep.protocol.output import Output
from mcpkeep.protocol.standing import Standing
from mcpkeep.protocol.succession import Succession
from mcpkeep.protocol.switch import ChildRefused, ChildWedged, RelayOrder
from mcpkeep.protocol.takeover import Takeover
from mcpkeep.protocol.tools import OwnTool, ToolCall, ToolCalled, ToolResult, encode_tool_result

__all__ = ["Relay", "RelaySettings", "RelayStatus"]

_SETTING = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
_NOTED = frozenset({"initialize", "server/discover", *LIST_KINDS}) | _SETTING
"""The methods whose answers say something of the session, or are not passed on as they are."""

_SERVED_FOR = {"logging/setLevel": "logging", "tools/list": "tools"}
"""What we announce whether or not the child has it, and by which capability that shows."""

_OBJECT = re.compile(rb'\s*\{\s*["}]')
_MESSAGE = re.compile(rb'\{\s*"(?:jsonrpc|id|method|params|result|error)"\s*:')
_LIST_CHANGED = frozenset(kind.changed for kind in LIST_KINDS.values())
_BINDING_LIMIT = 10_000
"""Request states and task ids remembered; beyond, the oldest are forgotten and go to the serving child."""


class RelaySettings(msgspec.Struct, frozen=True):
    hold: float = 30.0
    """Seconds that a request waits for a child which is not up."""
    overlay: bool = True
    """Our tools hide the child's tools of the same name; otherwise the child's stand."""
    max_message: int = 10 * 1024 * 1024
    """The longest line of the child that is passed on, in bytes; told in the error that replaces one."""
    health: HealthSettings = HealthSettings()


class RelayStatus(msgspec.Struct, frozen=True):
    """The relay at one moment."""

    era: str
    protocol_version: str | None
    in_flight: int
    """Requests that a child has."""
    held: int
    """Requests that wait for a child."""
    server_tools: tuple[str, ...]
    """The child's tools as last listed."""
    tools_gone: tuple[str, ...]
    """Tools the client was given that a replacement took away."""


class Relay:
    """One client, and the children that serve it one after the other. Times are seconds of any one clock."""

    def __init__(self, *, own_tools: Sequence[OwnTool], settings: RelaySettings, own_prefix: str) -> None:
        """`own_prefix` begins the ids of our own requests; no client may use such ids."""
        self.output = Output()
        self.opening = Opening()
        self.listing = Listing(own_tools, overlay=settings.overlay)
        self.calls = Calls(self.output, self.listing, self.opening)
        self._settings = settings
        self._own_prefix = own_prefix
        self._standing = Standing()
        self._minted = Minted()
        self._health = Health(settings.health)
        self.lane = Lane(self.calls.table, listing=self.listing, opening=self.opening, health=self._health)
        self._takeover = Takeover(self.output, self.opening, self.listing, self._standing, prefix=own_prefix)
        self._succession = Succession(
            self.output,
            calls=self.calls,
            opening=self.opening,
            listing=self.listing,
            standing=self._standing,
            minted=self._minted,
            health=self._health,
            takeover=self._takeover,
            lane=self.lane,
            tell_change=self._tell_change,
        )
        self._links = self._succession.links
        self._table = self.calls.table
        self._bound: dict[str, int] = {}

    @property
    def serving(self) -> int:
        """The generation that the client's requests go to; 0 while there is none."""
        return self._succession.serving.generation if self._succession.serving is not None else 0

    # From the client

    def from_client(self, frames: Sequence[Frame], now: float) -> None:
        """Lines of the client, in order."""
        for frame in frames:
            if isinstance(frame, Oversized):
                text = f"the message of {frame.size} bytes is larger than `limits.max_request` allows"
                self.output.client.append(encode_error(frame.id, INVALID_REQUEST, text))
                continue
            try:
                head = read_head(frame)
            except ProtocolError as error:
                self._bad_client_line(frame, error, now)
                continue
            if head.method is None:
                self._client_answers(head, frame)
            elif head.id is UNSET:
                self._client_notifies(head.method, head.params, frame)
            else:
                assert head.id is not None  # read_head refuses it
                self._client_requests(head.id, head.method, head.params, frame, now)

    def _client_requests(self, id_: RequestId, method: str, params: Params, line: bytes, now: float) -> None:
        if id_ in self._table or (isinstance(id_, str) and id_.startswith(self._own_prefix)):
            text = f"the id {id_!r} is in use by a request that is not answered yet"
            self.output.client.append(encode_error(id_, INVALID_REQUEST, text))
            return
        call = Call(id_, method, line, LOSS.get(method, Loss.ERROR), now, params.name)
        if params.meta is not NO_META:
            self._note_meta(call, params)
        if method == "tools/call":
            call.is_task = params.task is not UNSET
            if params.name in self.listing.own:
                self._call_own(call)
                return
        elif self._answers_itself(call, params):
            return
        self._table[id_] = call
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
            self.calls.send(call, link)
            if method == "tools/call" and params.name not in self.listing.tools:
                self._takeover.learn_tools(link)
        elif (unavailable := self._succession.unavailable) is not None:
            self.calls.hold(call, now)
            self.calls.fail_unavailable(call, unavailable.exit, unavailable.detail)
        else:
            self.calls.hold(call, now)

    def _note_meta(self, call: Call, params: Params) -> None:
        meta = params.meta
        call.progress_token, call.log_level = meta.progress_token, meta.log_level
        if meta.protocol_version is not None and self.opening.era is not Era.MODERN:
            self.opening.client_requests(decode_message(call.frame).params)

    def _bound_link(self, call: Call, params: Params) -> Link | None:
        """The child that minted the state or task which this request names, while it lives."""
        bound = self._bound.get(params.request_state or params.task_id or "", 0)
        link = self._links.get(bound)
        if link is not None and link.is_drained:
            link = None
        if bound and params.request_state is not None:
            call.bound = bound
            if link is None:
                self.calls.fail_bound(call)
        return link or self._succession.serving

    def _answers_itself(self, call: Call, params: Params) -> bool:
        """Note what this request says of the session; answer it here if it is not for the child."""
        capabilities = self._succession.serving.capabilities if self._succession.serving is not None else None
        answer: Raw | None = None
        match call.method:
            case "ping":
                answer = Raw(b"{}")
            case "initialize":
                self.opening.client_initializes(decode_message(call.frame).params)
            case "server/discover":
                self.opening.client_requests(decode_message(call.frame).params)
            case "logging/setLevel":
                call.subject = params.level
                if capabilities is not None and "logging" not in capabilities:
                    self._set(call)
                    answer = Raw(b"{}")
            case "resources/subscribe" | "resources/unsubscribe" | "resources/read":
                call.subject = params.uri
            case method if method in LIST_KINDS:
                call.first_page = params.cursor is None
                if not call.first_page:
                    call.loss = Loss.ERROR
                elif method == "tools/list" and capabilities is not None and "tools" not in capabilities:
                    answer = self.listing.without_child(self.opening.era)
            case _:
                pass
        if answer is not None:
            self.output.client.append(encode_result(call.id, answer))
        return answer is not None

    def _set(self, call: Call) -> None:
        """What the client has set at one child holds for all, those that are open now and those to come."""
        self._standing.note(call)
        name = "level" if call.method == "logging/setLevel" else "uri"
        for link in self._links.values():
            if link.generation != call.generation and link.is_open:
                self._takeover.repeat(link, call.method, {name: call.subject})

    def _call_own(self, call: Call) -> None:
        params = decode_message(call.frame).params
        if self.opening.era is Era.MODERN and not has_envelope(params):
            text = "the request lacks the protocol version or the client's capabilities in `params._meta`"
            self.output.client.append(encode_error(call.id, INVALID_PARAMS, text))
            return
        call.generation = OURS
        self._table[call.id] = call
        arguments = decode_object(params).get("arguments", Raw())
        asked = ToolCall(call.id, call.subject or "", arguments, call.progress_token)
        self.output.effects.append(ToolCalled(asked))

    def _client_notifies(self, method: str, params: Params, line: bytes) -> None:
        targets: list[Link] = []
        match method:
            case "notifications/cancelled":
                call = self.calls.cancel(params.request_id)
                if call is not None:
                    targets = [link for link in self._links.values() if link.generation == call.generation]
            case "notifications/progress":
                answer = self._minted.client_progress(params.progress_token, line)
                if answer is not None:
                    self._to_generation(*answer)
            case "notifications/initialized" | "notifications/roots/list_changed":
                self.opening.initialized |= method == "notifications/initialized"
                targets = [link for link in self._links.values() if link.is_open]
            case _ if self._succession.serving is not None and self._succession.serving.is_open:
                targets = [self._succession.serving]
            case _:
                self.output.log("info", f"no MCP server is up to take the client's {method}; dropped")
        for link in targets:
            self.output.to_child(link, line)
            self._succession.check_drained(link)

    def _client_answers(self, head: Head, line: bytes) -> None:
        answer = self._minted.answer(head.id, line) if head.id is not UNSET and head.id is not None else None
        if answer is None:
            self.output.log("debug", f"the client answers {head.id!r}, which no server waits for; dropped")
        else:
            self._to_generation(*answer)

    def _to_generation(self, generation: int, frame: bytes) -> None:
        if (link := self._links.get(generation)) is not None:
            self.output.to_child(link, frame)

    def _bad_client_line(self, line: bytes, error: ProtocolError, now: float) -> None:
        batch = split_batch(line)
        for item in batch or ():
            if item.startswith(b"["):  # not split again: nested batches would nest our calls as deep
                self._refuse_client_line(item, error)
            else:
                self.from_client([item], now)
        if not batch:
            self._refuse_client_line(line, error)

    def _refuse_client_line(self, line: bytes, error: ProtocolError) -> None:
        scanner = IdScanner()
        scanner.feed(line)
        is_batch = line.lstrip().startswith(b"[") and split_batch(line) is not None
        code = PARSE_ERROR if scanner.id is None and not is_batch else INVALID_REQUEST
        text = f"the client's message cannot be carried: {error}"
        self.output.client.append(encode_error(scanner.id, code, text))

    # From a child

    def from_child(self, generation: int, frames: Sequence[Frame], now: float) -> None:
        """Lines of a child, in order."""
        link = self._links.get(generation)
        if link is None:
            return
        if link is self._succession.serving:
            self._health.heard(now)
        for frame in frames:
            if isinstance(frame, Oversized):
                self._oversized(link, frame)
                continue
            try:
                head = read_head(frame)
            except ProtocolError as error:
                self._bad_child_line(link, frame, error, now)
                continue
            if head.method is None:
                self._child_answers(link, head, frame)
            elif head.id is UNSET:
                self._child_notifies(link, head.method, head.params, frame)
            else:
                assert head.id is not None  # read_head refuses it
                self._child_requests(link, head.id, head.method, head.params, frame)

    def _child_answers(self, link: Link, head: Head, line: bytes) -> None:
        call = self._table.get(head.id)  # type: ignore[arg-type]  # what is no id is no key
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
                self._bind(result, link)
        elif call.method in _SERVED_FOR:
            line = self._serve_for(call, link, line)
        if call.subject in self.listing.gone:
            line = self.listing.tell_gone(call, line)
        self.output.client.append(line)
        if link.is_draining or self._succession.holding:
            self._succession.check_drained(link)

    def _opening_answered(self, link: Link, call: Call, line: bytes) -> None:
        """The client's own opening request has its answer: the session is open with this child."""
        if call.method in ("initialize", "server/discover"):
            link.capabilities = capabilities_of(decode_message(line).result)
        elif self.opening.era is Era.LEGACY:
            return
        if self.opening.era is Era.MODERN:
            self.opening.settle()
        self._succession.ready(link)

    def _note_answer(self, call: Call, link: Link, line: bytes) -> bytes:
        """Remember what this answer says of the session; the frame as the client gets it."""
        if call.method in _SETTING:
            self._set(call)
            return line
        result = decode_message(line).result
        if call.method in LIST_KINDS:
            page = self.listing.page(call.method, result, first=call.first_page, era=self.opening.era)
            if call.method == "tools/list" and (hidden := self.listing.hidden_names()):
                self.output.log("info", f"mcpkeep's tools stand for the server's own {', '.join(hidden)}")
            if link is not self._succession.serving:
                self._succession.list_again((call.method,))
        else:
            page = self.opening.child_answers(result)
        return line if page is result else encode_result(call.id, page)

    def _serve_for(self, call: Call, link: Link, line: bytes) -> bytes:
        """A request that waited for this child, which cannot answer it: what we announced, we serve."""
        if link.capabilities is None or _SERVED_FOR[call.method] in link.capabilities:
            return line
        if call.method == "logging/setLevel":
            self._set(call)
            return encode_result(call.id, Raw(b"{}"))
        if not call.first_page:
            return line
        return encode_result(call.id, self.listing.without_child(self.opening.era))

    def _bind(self, result: Result, link: Link) -> None:
        """The client's next request about this belongs to the child that minted it."""
        token = result.request_state or (result.task.task_id if result.task is not None else None)
        if token is None:
            return
        self._bound.pop(token, None)
        self._bound[token] = link.generation
        if len(self._bound) > _BINDING_LIMIT:
            del self._bound[next(iter(self._bound))]

    def _own_answered(self, link: Link, head: Head, line: bytes) -> None:
        own = link.own.pop(head.id, None) if isinstance(head.id, str) else None
        if own is None:
            self.output.log("debug", f"the server answers {head.id!r}, which nobody waits for; dropped")
            return
        match own.purpose:
            case Purpose.OPEN:
                refusal = self._takeover.opened(link, head, line)
                if refusal is None:
                    self._succession.ready(link)
                else:
                    self.output.effects.append(ChildRefused(link.generation, refusal))
            case Purpose.LIST:
                if link is self._succession.serving:
                    self._tell_change(self._takeover.listed(link, own, head, line))
            case Purpose.STANDING | Purpose.HEALTH:
                pass
            case _:
                assert_never(own.purpose)

    def _own_lost(self, link: Link, id_: RequestId | None, what: str) -> None:
        """The child answered our own request with what cannot be carried."""
        own = link.own.pop(id_, None) if isinstance(id_, str) else None
        if own is not None and own.purpose is Purpose.OPEN:
            reason = f"it answers the opening request with {what}"
            self.output.effects.append(ChildRefused(link.generation, reason))
        elif own is not None and own.compare and link is self._succession.serving:
            self._tell_change(self.listing.unknown(own.method))

    def _child_notifies(self, link: Link, method: str, params: Params, line: bytes) -> None:
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
                    self.output.client.append(frame)
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
        self.output.client.append(line)

    def _call_of(self, token: RequestId | None, link: Link) -> Call | None:
        """The live call at `link` that this progress token belongs to; most clients use the id as token."""
        if token is None:
            return None
        call = self._table.get(token)
        if call is None or call.progress_token != token or type(call.id) is not type(token):
            call = next((call for call in self.calls if call.progress_token == token), None)
        return call if call is not None and call.generation == link.generation else None

    def _acknowledge(self, link: Link, params: Params, line: bytes) -> None:
        id_ = params.meta.subscription_id
        call = self._table.get(id_) if id_ is not None else None
        if call is None or call.generation != link.generation:
            return
        frame = acknowledge(call, line)
        self.output.client += [frame] if frame is not None else listens_updated(call)

    def _child_requests(self, link: Link, id_: RequestId, method: str, params: Params, line: bytes) -> None:
        if method == "ping":
            self.output.to_child(link, encode_result(id_, Raw(b"{}")))
            return
        link.asked += 1
        token = params.meta.progress_token
        self.output.client.append(self._minted.request(link.generation, line, id_, token))

    def _oversized(self, link: Link, frame: Oversized) -> None:
        what = f"a message of {frame.size} bytes, above `limits.max_message` = {self._settings.max_message}"
        self.output.log("warning", f"the server wrote {what}; dropped")
        call = self._table.get(frame.id) if frame.id is not None else None
        if frame.is_request:
            if frame.id is not None:
                error = encode_error(frame.id, INVALID_REQUEST, f"mcpkeep does not carry {what}")
                self.output.to_child(link, error)
        elif call is not None and call.generation == link.generation:
            self._replace_answer(link, call, Reason.TOO_LARGE, f"The answer to {call.method} is {what}.")
        elif frame.id is None:
            if not link.is_wedged:
                link.is_wedged = True
                self.output.effects.append(ChildWedged(link.generation, f"it wrote {what}, whose id is lost"))
        else:
            self._own_lost(link, frame.id, what)

    def _bad_child_line(self, link: Link, line: bytes, error: ProtocolError, now: float) -> None:
        """Carry what can be read after all: a batch, or a message behind a BOM or a printed text."""
        shown = f"the server wrote a line of {len(line)} bytes that is no message ({error}): {line[:200]!r}"
        batch = split_batch(line)
        if batch:
            for item in batch:
                if item.startswith(b"["):
                    self.output.log("warning", shown)
                else:
                    self.from_child(link.generation, [item], now)
            return
        start = None if _OBJECT.match(line) else _MESSAGE.search(line)
        if start is not None:
            self.output.log("warning", f"{shown}; the message in it is carried")
            self.from_child(link.generation, [line[start.start() :]], now)
            return
        self.output.log("warning", shown)
        scanner = IdScanner()
        scanner.feed(line)
        call = self._table.get(scanner.id) if scanner.id is not None and b'"jsonrpc"' in line else None
        if call is not None and call.generation == link.generation and not scanner.is_request:
            text = f"The MCP server's answer to {call.method} is not valid JSON-RPC ({error})."
            self._replace_answer(link, call, Reason.INVALID, text)
        elif not scanner.is_request:
            self._own_lost(link, scanner.id, f"a line that is no message ({error})")

    def _replace_answer(self, link: Link, call: Call, reason: Reason, text: str) -> None:
        self.calls.remove(call)
        self.output.client.append(lost_error(call.id, reason, what=call.method, retryable=False, advice=text))
        self._succession.check_drained(link)

    # From the child actor

    def order(self, order: RelayOrder, now: float) -> None:
        """What the child actor decided."""
        self._succession.order(order, now)

    def _tell_change(self, change: ListingChange | None) -> None:
        if change is None:
            return
        if self.opening.era is Era.LEGACY:
            if change.kind.capability in self.opening.capabilities:
                self.output.client.append(encode_notification(change.kind.changed))
        else:
            self.output.client += listens_changed(self.calls, change.kind)
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (
                ("added", change.added),
                ("removed", change.removed),
                ("changed", change.changed),
            )
            if names
        ]
        self.notice(
            "info", f"The MCP server's {change.kind.member} changed: {'; '.join(parts) or 'unknown how'}."
        )

    # From ourselves

    def answer(self, id_: RequestId, result: ToolResult) -> None:
        """Our own tool has finished a call; nothing goes out where the client waits no longer."""
        call = self._table.get(id_)
        if call is not None and call.generation == OURS:
            self.calls.remove(call)
            modern = self.opening.era is Era.MODERN
            self.output.client.append(encode_result(id_, encode_tool_result(result, modern=modern)))

    def progress(self, id_: RequestId, progress: float, total: float | None, text: str) -> None:
        """Our own tool is under way with a call; told where the client asked for progress."""
        call = self._table.get(id_)
        if call is not None and call.generation == OURS and call.progress_token is not None:
            params: dict[str, object] = {"progressToken": call.progress_token, "progress": progress}
            if total is not None:
                params["total"] = total
            params["message"] = text
            self.output.client.append(encode_notification("notifications/progress", params))

    def notice(self, level: str, text: str) -> None:
        """Tell the client through its log, if it listens at that level (one of LOG_LEVELS)."""
        match self.opening.era:
            case Era.LEGACY if self.opening.initialized and self.opening.is_told:
                wanted = [self._standing.level or "info"]
            case Era.MODERN:
                wanted = self.calls.log_level_asked()
            case _:
                wanted = []
        if any(name in LOG_LEVELS and LOG_LEVELS.index(level) >= LOG_LEVELS.index(name) for name in wanted):
            params = {"level": level, "logger": "mcpkeep", "data": text}
            self.output.client.append(encode_notification("notifications/message", params))

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""
        if not self._succession.holding:
            self.calls.expire(now, self._settings.hold, self._succession.last_exit)
        link = self._succession.serving
        if link is None or not link.is_ready:
            return
        probe = self._health.tick(now, busy=self.calls.in_flight(link.generation))
        match probe:
            case Probe.ASK | Probe.CONFIRM:
                self._takeover.probe(link, confirm=probe is Probe.CONFIRM)
            case Probe.WEDGED:
                reason = "it is idle and answers neither of two different requests"
                self.output.effects.append(ChildWedged(link.generation, reason))
            case Probe.NOTHING:
                pass
            case _:
                assert_never(probe)

    def status(self) -> RelayStatus:
        """Where the client's session stands."""
        held = len(self.calls.at(HELD))
        return RelayStatus(
            era=self.opening.era.value,
            protocol_version=self.opening.version,
            in_flight=sum(call.generation > HELD for call in self.calls),
            held=held,
            server_tools=tuple(name for name in self.listing.tools if name is not None),
            tools_gone=tuple(name for name in self.listing.gone if name is not None),
        )

    def deadline(self) -> float | None:
        """When tick() is next due, or None. It may move with every input."""
        oldest = None if self._succession.holding else self.calls.oldest_hold()
        due = [oldest + self._settings.hold] if oldest is not None else []
        if (
            self._succession.serving is not None
            and self._succession.serving.is_ready
            and (health := self._health.deadline()) is not None
        ):
            due.append(health)
        return min(due, default=None)
