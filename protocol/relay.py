"""The relay: everything between an MCP client and the child that serves it, without I/O.

Frames, orders and times come in; frames and effects come out through `output`. The hot path is a request
passed on and its answer passed back: one decode, one table entry, the same bytes. Everything else here
exists so that the client does not notice when the child is another one.

What names a generation without a link has no effect: a late word of an old child moves nothing.
"""

from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec import UNSET, Raw

from mcpkeep.protocol.call import HELD, OURS, Call, Reason, lost_error
from mcpkeep.protocol.calls import Calls
from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.framing import Frame, IdScanner, Oversized
from mcpkeep.protocol.head import Head, Params, read_head
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
from mcpkeep.protocol.link import Link, Purpose
from mcpkeep.protocol.listens import Listens
from mcpkeep.protocol.listing import Listing, ListingChange
from mcpkeep.protocol.mcp import LIST_KINDS, LOG_LEVELS, Era, Loss, loss_of
from mcpkeep.protocol.minted import Minted
from mcpkeep.protocol.opening import Opening, capabilities_of, has_envelope
from mcpkeep.protocol.output import Output
from mcpkeep.protocol.standing import Standing
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildExited,
    ChildPromoted,
    ChildReady,
    ChildRefused,
    ChildUnavailable,
    ChildWedged,
    Exit,
    RelayOrder,
    describe_exit,
)
from mcpkeep.protocol.takeover import Takeover
from mcpkeep.protocol.tools import OwnTool, ToolCall, ToolCalled, ToolResult, encode_tool_result

__all__ = ["Relay", "RelaySettings", "RelayStatus"]

_REWRITTEN = frozenset({"initialize", "server/discover", *LIST_KINDS})
_SETTING = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
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
        self.serving: Link | None = None
        self._settings = settings
        self._own_prefix = own_prefix
        self._standing = Standing()
        self._listens = Listens()
        self._minted = Minted()
        self._health = Health(settings.health)
        self._takeover = Takeover(self.output, self.opening, self.listing, self._standing, prefix=own_prefix)
        self._links: dict[int, Link] = {}
        self._bound: dict[str, int] = {}
        self._holding = False
        self._unavailable: ChildUnavailable | None = None
        self._last_exit: Exit | None = None

    # From the client

    def from_client(self, frame: Frame, now: float) -> None:
        """One line of the client."""
        if isinstance(frame, Oversized):
            text = f"the message of {frame.size} bytes is larger than mcpkeep accepts (`limits.max_request`)"
            self.output.client.append(encode_error(frame.id, INVALID_REQUEST, text))
            return
        try:
            head = read_head(frame)
        except ProtocolError as error:
            self._bad_client_line(frame, error, now)
            return
        if head.method is None:
            self._client_answers(head, frame)
        elif head.id is UNSET:
            self._client_notifies(head.method, head.params, frame)
        else:
            assert head.id is not None  # read_head refuses it
            self._client_requests(head.id, head.method, head.params, frame, now)

    def _client_requests(self, id_: RequestId, method: str, params: Params, line: bytes, now: float) -> None:
        if id_ in self.calls or (isinstance(id_, str) and id_.startswith(self._own_prefix)):
            text = f"the id {id_!r} is in use by a request that is not answered yet"
            self.output.client.append(encode_error(id_, INVALID_REQUEST, text))
            return
        meta = params.meta
        call = Call(id_, method, line, loss_of(method), now, params.name)
        call.progress_token, call.log_level = meta.progress_token, meta.log_level
        if meta.protocol_version is not None and self.opening.era is not Era.MODERN:
            self.opening.client_requests(decode_message(line).params)
        if method == "tools/call":
            call.is_task = params.task is not UNSET
            if self.listing.own_tool(params.name) is not None:
                self._call_own(call)
                return
        elif self._answers_itself(call, params):
            return
        call.held_since = now
        self.calls.add(call)
        self._health.used(now)
        self._route(call, params)

    def _answers_itself(self, call: Call, params: Params) -> bool:
        """Note what this request says of the session; answer it here if it is not for the child."""
        capabilities = self.serving.capabilities if self.serving is not None else None
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
                    self._standing.note(call)
                    answer = Raw(b"{}")
            case "resources/subscribe" | "resources/unsubscribe" | "resources/read":
                call.subject = params.uri
            case method if method in LIST_KINDS:
                call.first_page = params.cursor is None
                if not call.first_page:
                    call.loss = Loss.ERROR
                elif method == "tools/list" and capabilities is not None and "tools" not in capabilities:
                    answer = self.listing.from_memory(self.opening.era)
            case _:
                pass
        if answer is not None:
            self.output.client.append(encode_result(call.id, answer))
        return answer is not None

    def _route(self, call: Call, params: Params) -> None:
        link = self.serving
        if params.request_state is not None or params.task_id is not None:
            bound = self._bound.get(params.request_state or params.task_id or "")
            if bound in self._links:
                link = self._links[bound]
            elif bound is not None and params.request_state is not None:
                advice = (
                    "The MCP server that asked for more input was replaced: send it without `requestState`."
                )
                self.calls.fail_replaced(call, advice)
                return
        if link is not None and link.is_open and not (self._holding and link is self.serving):
            self.calls.send(call, link)
            if call.method == "tools/call" and call.subject and not self.listing.knows_tool(call.subject):
                self._takeover.learn_tools(link)
            if call.method in _SETTING:
                self._repeat_setting(call, link)
        elif self._unavailable is not None:
            self.calls.fail_unavailable(call, self._unavailable.exit, self._unavailable.detail)

    def _repeat_setting(self, call: Call, first: Link) -> None:
        name = "level" if call.method == "logging/setLevel" else "uri"
        for link in self._links.values():
            if link is not first and link.is_open:
                self._takeover.repeat(link, call.method, {name: call.subject})

    def _call_own(self, call: Call) -> None:
        params = decode_message(call.frame).params
        if self.opening.era is Era.MODERN and not has_envelope(params):
            text = "the request lacks the protocol version or the client's capabilities in `params._meta`"
            self.output.client.append(encode_error(call.id, INVALID_PARAMS, text))
            return
        call.generation = OURS
        self.calls.add(call)
        arguments = decode_object(params).get("arguments", Raw())
        asked = ToolCall(call.id, call.subject or "", arguments, call.progress_token)
        self.output.effects.append(ToolCalled(asked))

    def _client_notifies(self, method: str, params: Params, line: bytes) -> None:
        targets: list[Link] = []
        match method:
            case "notifications/cancelled":
                call = self.calls.cancel(params.request_id)
                if call is not None:
                    self._listens.end(call.id)
                    targets = [link for link in self._links.values() if link.generation == call.generation]
            case "notifications/progress":
                answer = self._minted.client_progress(params.progress_token, line)
                if answer is not None:
                    self._to_generation(*answer)
            case "notifications/initialized" | "notifications/roots/list_changed":
                self.opening.initialized |= method == "notifications/initialized"
                targets = [link for link in self._links.values() if link.is_open]
            case _ if self.serving is not None and self.serving.is_open:
                targets = [self.serving]
            case _:
                self.output.log("info", f"no MCP server is up to take the client's {method}; dropped")
        for link in targets:
            self.output.to_child(link, line)
            self._check_drained(link)

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
        if batch:
            for item in batch:
                self.from_client(item, now)
            return
        scanner = IdScanner()
        scanner.feed(line)
        code = PARSE_ERROR if scanner.id is None and batch is None else INVALID_REQUEST
        text = f"the client's message cannot be carried: {error}"
        self.output.client.append(encode_error(scanner.id, code, text))

    # From a child

    def from_child(self, generation: int, frame: Frame, now: float) -> None:
        """One line of a child."""
        link = self._links.get(generation)
        if link is None:
            return
        if link is self.serving:
            self._health.heard(now)
        if isinstance(frame, Oversized):
            self._oversized(link, frame)
            return
        try:
            head = read_head(frame)
        except ProtocolError as error:
            self._bad_child_line(link, frame, error, now)
            return
        if head.method is None:
            self._child_answers(link, head, frame)
        elif head.id is UNSET:
            self._child_notifies(link, head.method, head.params, frame)
        else:
            assert head.id is not None  # read_head refuses it
            self._child_requests(link, head.id, head.method, head.params, frame)

    def _child_answers(self, link: Link, head: Head, line: bytes) -> None:
        id_ = head.id
        call = self.calls.get(id_) if id_ is not UNSET and id_ is not None else None
        if call is None or call.generation != link.generation:
            self._own_answered(link, head, line)
            return
        self.calls.remove(call)
        if head.result is not None:
            if not link.is_ready:
                self._opening_answered(link, call, line)
            if call.method in _REWRITTEN:
                line = self._rewritten(call, line)
            elif call.method in _SETTING:
                self._standing.note(call)
            bound = head.result.request_state or (head.result.task and head.result.task.task_id)
            if bound:
                self._bind(bound, link)
        if call.subject in self.listing.gone:
            line = self.listing.tell_gone(call, line)
        self.output.client.append(line)
        if call.method == "subscriptions/listen":
            self._listens.end(call.id)
        self._check_drained(link)

    def _opening_answered(self, link: Link, call: Call, line: bytes) -> None:
        """The client's own opening request has its answer: the session is open with this child."""
        if call.method in ("initialize", "server/discover"):
            link.capabilities = capabilities_of(decode_message(line).result)
        elif self.opening.era is Era.LEGACY:
            return
        if self.opening.era is Era.MODERN:
            self.opening.settle()
        self._ready(link)

    def _rewritten(self, call: Call, line: bytes) -> bytes:
        result = decode_message(line).result
        if call.method in LIST_KINDS:
            page = self.listing.page(call.method, result, first=call.first_page, era=self.opening.era)
            if call.method == "tools/list" and (hidden := self.listing.hidden_names()):
                self.output.log("info", f"mcpkeep's tools stand for the server's own {', '.join(hidden)}")
        else:
            page = self.opening.child_answers(result)
        return line if page is result else encode_result(call.id, page)

    def _bind(self, token: str, link: Link) -> None:
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
                    self._ready(link)
                else:
                    self.output.effects.append(ChildRefused(link.generation, refusal))
            case Purpose.LIST:
                change = self._takeover.listed(link, own, head, line)
                if change is not None and link is self.serving:
                    self._tell_change(change)
            case Purpose.STANDING | Purpose.HEALTH:
                pass
            case _:
                assert_never(own.purpose)

    def _child_notifies(self, link: Link, method: str, params: Params, line: bytes) -> None:
        serves = link is self.serving or link.is_draining
        match method:
            case "notifications/progress":
                call = self._call_of(params.progress_token, link)
                if call is not None:
                    call.progressed = True
                if call is None and link is not self.serving:
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
                if link is not self.serving:
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
        call = self.calls.get(token)
        if call is None or call.progress_token != token or type(call.id) is not type(token):
            call = next((call for call in self.calls if call.progress_token == token), None)
        return call if call is not None and call.generation == link.generation else None

    def _acknowledge(self, link: Link, params: Params, line: bytes) -> None:
        id_ = params.meta.subscription_id
        call = self.calls.get(id_) if id_ is not None else None
        if call is None or call.generation != link.generation:
            return
        frame = self._listens.acknowledge(call, line)
        self.output.client += [frame] if frame is not None else self._listens.updated(call.id)

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
        call = self.calls.get(frame.id) if frame.id is not None else None
        if frame.is_request:
            if frame.id is not None:
                error = encode_error(frame.id, INVALID_REQUEST, f"mcpkeep does not carry {what}")
                self.output.to_child(link, error)
        elif call is not None and call.generation == link.generation:
            self._replace_answer(link, call, Reason.TOO_LARGE, f"The answer to {call.method} is {what}.")
        elif frame.id is None:
            self.output.effects.append(ChildWedged(link.generation, f"it wrote {what}, whose id is lost"))
        elif isinstance(frame.id, str) and (own := link.own.pop(frame.id, None)):
            if own.purpose is Purpose.OPEN:
                self.output.effects.append(ChildRefused(link.generation, f"it answers with {what}"))

    def _bad_child_line(self, link: Link, line: bytes, error: ProtocolError, now: float) -> None:
        """Carry what can be read after all: a batch, or a message behind a BOM or a printed text."""
        batch = split_batch(line)
        if batch:
            for item in batch:
                self.from_child(link.generation, item, now)
            return
        shown = f"the server wrote a line of {len(line)} bytes that is no message ({error}): {line[:200]!r}"
        start = line.find(b'{"')
        if start > 0 and b'"jsonrpc"' in line:
            self.output.log("warning", f"{shown}; the message in it is carried")
            self.from_child(link.generation, line[start:], now)
            return
        self.output.log("warning", shown)
        scanner = IdScanner()
        scanner.feed(line)
        call = self.calls.get(scanner.id) if scanner.id is not None and b'"jsonrpc"' in line else None
        if call is not None and call.generation == link.generation and not scanner.is_request:
            text = f"The MCP server's answer to {call.method} is not valid JSON-RPC ({error})."
            self._replace_answer(link, call, Reason.INVALID, text)

    def _replace_answer(self, link: Link, call: Call, reason: Reason, text: str) -> None:
        self.calls.remove(call)
        self.output.client.append(lost_error(call.id, reason, what=call.method, retryable=False, advice=text))
        self._check_drained(link)

    # From the child actor

    def order(self, order: RelayOrder, now: float) -> None:
        """What the child actor decided."""
        match order:
            case ChildAttached(generation):
                link = self._links[generation] = Link(generation)
                self._unavailable = None
                if self.serving is None:
                    self.serving = link
                self._takeover.open(link)
                if link.is_open:
                    self._opened(link)
                if link is not self.serving and not self.opening.is_told:
                    self._ready(link)
            case ChildPromoted(generation):
                self._promote(generation)
            case CallsHeld():
                self._holding = True
                if self.serving is not None:
                    self._check_drained(self.serving)
            case ChildExited():
                self._child_exited(order, now)
            case ChildUnavailable():
                self._unavailable = order
                self._holding = False
                for call in self.calls.at(HELD):
                    self.calls.fail_unavailable(call, order.exit, order.detail)
            case _:
                assert_never(order)

    def _ready(self, link: Link) -> None:
        link.is_ready = True
        self._opened(link)
        self.output.effects.append(ChildReady(link.generation))
        if link is self.serving:
            self._catch_up(link)

    def _opened(self, link: Link) -> None:
        if link is self.serving:
            self._holding = False
            self.calls.release(link)

    def _promote(self, generation: int) -> None:
        link, old = self._links.get(generation), self.serving
        if link is None or link is old:
            return
        self.serving = link
        self._health.replaced()
        if link.is_fresh and self.opening.is_told:
            link.is_open = False
            self._takeover.open(link)
        if old is not None:
            old.is_draining = True
            for call in self.calls.at(old.generation):
                if call.loss is Loss.RESEND:
                    self.calls.send(call, link)
        if link.is_open:
            self._opened(link)
        if link.is_ready:
            self._catch_up(link)
        if old is not None:
            self._check_drained(old)

    def _catch_up(self, link: Link) -> None:
        """A child that came after the first serves now: what may have changed for the client?"""
        if link.own or self.listing.given_methods():
            self._takeover.list_again(link)
        if self._last_exit is not None or len(self._links) > 1:
            for uri in self._standing.uris:
                self.output.client.append(
                    encode_notification("notifications/resources/updated", {"uri": uri})
                )

    def _child_exited(self, exited: ChildExited, now: float) -> None:
        link = self._links.pop(exited.generation, None)
        if link is None:
            return
        self._last_exit = exited.exit
        self._takeover.forget(link.generation)
        for id_ in self._minted.forget(link.generation):
            reason = f"the MCP server {describe_exit(exited.exit)}"
            params: dict[str, object] = {"requestId": id_, "reason": reason}
            self.output.client.append(encode_notification("notifications/cancelled", params))
        if link is self.serving:
            self.serving = None
            self._health.replaced()
        self.calls.lose(link, exited, now)

    def _check_drained(self, link: Link) -> None:
        waits = link.is_draining or (self._holding and link is self.serving)
        if waits and not link.is_drained and not self.calls.in_flight(link.generation):
            link.is_drained = True
            self.output.effects.append(ChildDrained(link.generation))

    def _tell_change(self, change: ListingChange) -> None:
        if self.opening.era is Era.LEGACY:
            if change.kind.capability in self.opening.capabilities:
                self.output.client.append(encode_notification(change.kind.changed))
        else:
            self.output.client += self._listens.changed(change.kind)
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
        call = self.calls.get(id_)
        if call is not None and call.generation == OURS:
            self.calls.remove(call)
            modern = self.opening.era is Era.MODERN
            self.output.client.append(encode_result(id_, encode_tool_result(result, modern=modern)))

    def progress(self, id_: RequestId, progress: float, total: float | None, text: str) -> None:
        """Our own tool is under way with a call; told where the client asked for progress."""
        call = self.calls.get(id_)
        if call is not None and call.generation == OURS and call.progress_token is not None:
            params: dict[str, object] = {"progressToken": call.progress_token, "progress": progress}
            if total is not None:
                params["total"] = total
            params["message"] = text
            self.output.client.append(encode_notification("notifications/progress", params))

    def notice(self, level: str, text: str) -> None:
        """Tell the client through its log, if it listens at that level (one of LOG_LEVELS)."""
        match self.opening.era:
            case Era.LEGACY if self.opening.initialized:
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
        if not self._holding:
            self.calls.expire(now, self._settings.hold, self._last_exit)
        link = self.serving
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
            server_tools=self.listing.tool_names(),
            tools_gone=tuple(self.listing.gone),
        )

    def deadline(self) -> float | None:
        """When tick() is next due, or None. It may move with every input."""
        oldest = None if self._holding else self.calls.oldest_hold()
        due = [oldest + self._settings.hold] if oldest is not None else []
        if (
            self.serving is not None
            and self.serving.is_ready
            and (health := self._health.deadline()) is not None
        ):
            due.append(health)
        return min(due, default=None)
