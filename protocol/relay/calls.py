"""The table of the client's requests that are not answered yet: held, sent, lost.

A call stands here from its arrival to its answer, in order of arrival.
"""

from collections.abc import Iterator

from mcpkeep.protocol.relay.call import HELD, OURS, Call, Reason, Verdict, lost_error, verdict_on
from mcpkeep.protocol.relay.jsonrpc import RequestId, encode_result
from mcpkeep.protocol.relay.link import Link
from mcpkeep.protocol.relay.listing import Listing
from mcpkeep.protocol.relay.mcp import Loss
from mcpkeep.protocol.relay.opening import Opening
from mcpkeep.protocol.relay.output import Output, ToolCancelled
from mcpkeep.protocol.switch import Exit

__all__ = ["Calls"]

_SHOWN = 200
"""Characters of a tool's name or of a URI that an error repeats."""


class Calls:
    def __init__(self, out: Output, listing: Listing, opening: Opening) -> None:
        self._out = out
        self._listing = listing
        self._opening = opening
        self.table: dict[object, Call] = {}
        """By the client's id. Only a call that a child has may be taken out here; else remove() it."""
        self._suspect: tuple[str, str | None] | None = None
        """What alone was in flight at the last crash."""
        self.held_bytes = 0

    def __iter__(self) -> Iterator[Call]:
        return iter(self.table.values())

    def remove(self, call: Call) -> None:
        """It is answered, or nobody waits for the answer."""
        del self.table[call.id]
        if call.generation == HELD:
            self.held_bytes -= len(call.frame)

    def send(self, call: Call, link: Link) -> None:
        """Hand the call to a child; its end tells later whether the child can have got it."""
        if call.generation == HELD:
            self.held_bytes -= len(call.frame)
        self._out.to_child(link, call.frame)
        call.generation = link.generation
        call.end = link.sent
        call.asked_before = link.asked
        call.attempts += 1

    def hold(self, call: Call, now: float) -> None:
        """Let the call wait for a child."""
        call.generation, call.held_since = HELD, now
        self.held_bytes += len(call.frame)

    def hold_anew(self, now: float) -> None:
        """What a planned replacement held waits for the next child from `now` on."""
        for call in self.held():
            call.held_since = now

    def release(self, link: Link) -> None:
        """Hand all that is held to `link`, oldest first."""
        for call in self.held():
            self.send(call, link)

    def held(self) -> list[Call]:
        return self.at(HELD)

    def at(self, generation: int) -> list[Call]:
        return [call for call in self if call.generation == generation]

    def in_flight(self, generation: int) -> bool:
        """Whether this child still owes an answer; a standing subscription is none."""
        return any(call.method != "subscriptions/listen" for call in self.at(generation))

    def lose(self, link: Link, exit_: Exit | None, *, accepted: int, planned: bool, now: float) -> None:
        """Decide over all that a dead or frozen child had: hold it for the next, or answer it by an error."""
        lost = self.at(link.generation)
        working = [call for call in lost if call.end <= accepted and call.loss is not Loss.RESEND]
        suspect = (working[0].method, working[0].subject) if len(working) == 1 else None
        may_be_killer = suspect is not None and suspect == self._suspect
        if not planned:
            self._suspect = suspect
        for call in lost:
            verdict = verdict_on(
                call,
                accepted=accepted,
                harmless=self._listing.is_harmless(call.subject),
                child_had_asked=link.asked > call.asked_before,
                may_be_killer=may_be_killer,
            )
            if verdict is Verdict.HOLD and call.bound:
                self.fail_bound(call)
            elif verdict is Verdict.HOLD:
                if call.end > accepted:
                    call.attempts -= 1
                self.hold(call, now)
            else:
                self._fail(call, Reason.REPLACED if planned else Reason.EXITED, exit_)

    def expire(self, now: float, limit: float, exit_: Exit | None, *, opening: float | None) -> None:
        """Answer what has been held for `limit` seconds; the opening request and subscriptions wait on.

        `opening` is for how many seconds the child that is to serve has owed us the answer to `initialize`;
        where there is none, `exit_` says how the last one ended.
        """
        state = "is not up"
        if opening is not None:
            state, exit_ = f"runs, but has not answered initialize for {opening:.0f} s", None
        for call in self.held():
            if call.loss is not Loss.RESEND and now >= call.held_since + limit:
                self.fail_unavailable(
                    call,
                    exit_,
                    f"The MCP server {state}: {call.method} waited {limit:g} s for it in vain. "
                    "Try again later; the tool `mcpkeep` with the action `status` or `logs` shows why, "
                    "and `restart` starts it anew.",
                )

    def oldest_hold(self) -> float | None:
        """Since when the call waits that has waited longest, among those that wait for a limited time."""
        return min((call.held_since for call in self.held() if call.loss is not Loss.RESEND), default=None)

    def fail_unavailable(self, call: Call, exit_: Exit | None, detail: str) -> None:
        """Answer a call that no child can take; `tools/list` from memory, so that our own tools are found."""
        if call.method == "tools/list" and call.first_page and self._opening.is_told:
            self.remove(call)
            self._out.client.append(encode_result(call.id, self._listing.from_memory(self._opening.era)))
        else:
            self._fail(call, Reason.UNAVAILABLE, exit_, detail)

    def fail_bound(self, call: Call) -> None:
        """Answer a call with a `requestState` that only a child of the past could have read."""
        advice = "The MCP server that asked for more input was replaced: send it without `requestState`."
        self._fail(call, Reason.REPLACED, None, advice)

    def cancel(self, id_: RequestId | None) -> Call | None:
        """The client waits no longer: nobody answers this call. The call, where it was not answered yet."""
        call = self.table.get(id_) if id_ is not None else None
        if call is None or call.method == "initialize":
            return None
        self.remove(call)
        if call.generation == OURS:
            self._out.effects.append(ToolCancelled(call.id))
        return call

    def log_level_asked(self) -> list[str]:
        """The levels of the requests in flight that want log notices with them (modern)."""
        return [call.log_level for call in self if call.log_level is not None]

    def _fail(self, call: Call, reason: Reason, exit_: Exit | None, detail: str | None = None) -> None:
        self.remove(call)
        safe = call.loss in (Loss.RETRY, Loss.RESEND) or self._listing.is_harmless(call.subject)
        what = f"{call.method} {call.subject[:_SHOWN]!r}" if call.subject else call.method
        self._out.client.append(
            lost_error(
                call.id,
                reason,
                what=what,
                exit_=exit_,
                retryable=safe or detail is not None,
                advice=detail,
            )
        )
