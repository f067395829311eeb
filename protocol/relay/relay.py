"""The relay: everything between an MCP client and the child that serves it, without I/O.

Frames, orders and times come in; frames and effects come out through `output`. The hot path is a request
passed on and its answer passed back: one decode, one table entry, the same bytes. Everything else here
exists so that the client does not notice when the child is another one.
"""

from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec import UNSET, Raw

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.call import HELD, Call
from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.framing import Frame, IdScanner, Oversized
from mcpkeep.protocol.relay.head import NO_META, Head, Params, Result, read_head
from mcpkeep.protocol.relay.health import Health, HealthSettings, Probe
from mcpkeep.protocol.relay.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    RequestId,
    decode_message,
    encode_error,
    encode_result,
    split_batch,
)
from mcpkeep.protocol.relay.lane import Lane
from mcpkeep.protocol.relay.link import Link, Purpose
from mcpkeep.protocol.relay.listens import acknowledge, listens_updated
from mcpkeep.protocol.relay.listing import Listing
from mcpkeep.protocol.relay.mcp import LIST_KINDS, LOSS, Era, Loss
from mcpkeep.protocol.relay.minted import Minted
from mcpkeep.protocol.relay.notices import Notices
from mcpkeep.protocol.relay.opening import Opening, capabilities_of
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.own_calls import OwnCalls
from mcpkeep.protocol.relay.own_requests import OwnRequests
from mcpkeep.protocol.relay.salvage import Salvage
from mcpkeep.protocol.relay.standing import Standing
from mcpkeep.protocol.relay.succession import Succession
from mcpkeep.protocol.relay.takeover import Takeover
from mcpkeep.protocol.relay.tools import OwnTool, ToolResult
from mcpkeep.protocol.switch import ChildRefused, ChildWedged, RelayOrder

__all__ = ["Relay", "RelaySettings", "RelayStatus"]

_SETTING = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
_NOTED = frozenset({"initialize", "server/discover", *LIST_KINDS}) | _SETTING
"""The methods whose answers say something of the session, or are not passed on as they are."""

_SERVED_FOR = {"logging/setLevel": "logging", "tools/list": "tools"}
"""What we announce whether or not the child has it, and by which capability that shows."""

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
        self.own_requests = OwnRequests(self.output, opening=self.opening, takeover=self._takeover)
        self._notices = Notices(self.output, calls=self.calls, opening=self.opening, standing=self._standing)
        self._own_calls = OwnCalls(self.output, calls=self.calls, opening=self.opening)
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
            own_requests=self.own_requests,
            tell_change=self._notices.tell_change,
        )
        self._salvage = Salvage(
            self.output,
            calls=self.calls,
            succession=self._succession,
            notices=self._notices,
            listing=self.listing,
            carry=self.from_child,
            max_message=settings.max_message,
        )
        self._links = self.own_requests.links = self._succession.links
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
                self._refuse(frame.id, INVALID_REQUEST, text, is_answer=not frame.is_request)
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
                self._notices.listens()
                targets = [link for link in self._links.values() if link.is_open]
            case _ if self._succession.serving is not None and self._succession.serving.is_open:
                targets = [self._succession.serving]
            case _:
                self.output.log("info", f"no MCP server is up to take the client's {method}; dropped")
        for link in targets:
            self.output.to_child(link, line)
            self._succession.check_drained(link)

    def _client_answers(self, head: Head, line: bytes) -> None:
        if self.own_requests.client_answered(head, line):
            return
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
        self._refuse(scanner.id, code, text, is_answer=not scanner.is_request)

    def _refuse(self, id_: RequestId | None, code: int, text: str, *, is_answer: bool) -> None:
        """Answer the client's line with an error; where it was an answer, so does the child that waits."""
        if is_answer and id_ is not None:
            answer = self._minted.answer(id_, encode_error(id_, INTERNAL_ERROR, text))
            if answer is not None:
                self._to_generation(*answer)
            self.own_requests.client_failed(id_, text)
        self.output.client.append(encode_error(id_, code, text))

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
                self._salvage.oversized(link, frame)
                continue
            try:
                head = read_head(frame)
            except ProtocolError as error:
                self._salvage.bad_line(link, frame, error, now)
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
                    self._notices.tell_change(self._takeover.listed(link, own, head, line))
            case Purpose.ASKED:
                self.own_requests.child_answered(str(head.id), head, line)
            case Purpose.STANDING | Purpose.HEALTH:
                pass
            case _:
                assert_never(own.purpose)

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

    # From the child actor

    def order(self, order: RelayOrder, now: float) -> None:
        """What the child actor decided."""
        self._succession.order(order, now)

    # From ourselves

    def answer(self, id_: RequestId, result: ToolResult) -> None:
        """Our own tool has finished a call; nothing goes out where the client waits no longer."""
        self._own_calls.answer(id_, result)

    def progress(self, id_: RequestId, progress: float, total: float | None, text: str) -> None:
        """Our own tool is under way with a call; told where the client asked for progress."""
        self._own_calls.progress(id_, progress, total, text)

    @property
    def is_attended(self) -> bool:
        """Whether a client has opened its session, and a child serves it."""
        link = self._succession.serving
        return self.opening.is_told and link is not None and link.is_ready

    def notice(self, level: str, text: str) -> None:
        """Tell the client through its log, if it listens at that level (one of LOG_LEVELS)."""
        self._notices.tell(level, text)

    def early_notice(self, level: str, text: str) -> None:
        """The same, told to the client that is yet to come where none listens."""
        self._notices.tell_early(level, text)

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""
        if not self._succession.holding:
            self.calls.expire(now, self._settings.hold, self._succession.last_exit)
        link = self._succession.serving
        if link is None or not link.is_ready:
            return
        probe = self._health.tick(now, busy=link.asked_by_us or self.calls.in_flight(link.generation))
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
