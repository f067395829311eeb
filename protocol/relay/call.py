"""A client's request on its way, and what becomes of it when the child that had it is gone."""

import enum

import msgspec

from mcpkeep.protocol.relay.jsonrpc import INTERNAL_ERROR, JsonObject, RequestId, encode_error
from mcpkeep.protocol.relay.mcp import Loss
from mcpkeep.protocol.switch import Exit, describe_exit

__all__ = ["HELD", "OURS", "Call", "Reason", "Verdict", "lost_error", "verdict_on"]


NEW = -2
OURS = -1
HELD = 0


class Reason(enum.Enum):
    """`data.reason` of the error that stands for a lost answer."""

    EXITED = "child_exited"
    REPLACED = "child_replaced"
    UNAVAILABLE = "child_unavailable"
    TOO_LARGE = "too_large"
    INVALID = "invalid_response"


class Call(msgspec.Struct, gc=False):
    """One request of the client that is not answered yet."""

    id: RequestId
    method: str
    frame: bytes
    """The request as the client sent it, for the case that it has to go out again."""
    loss: Loss
    since: float
    """When the client asked, in seconds."""
    subject: str | None = None
    """The tool, URI or level it is about."""
    generation: int = NEW
    """The child that has it; or NEW, HELD while it waits for one, OURS where one of our own tools has it."""
    end: int = 0
    """Where it ends in the bytes sent to that child: beyond what the kernel took, it never arrived whole."""
    asked_before: int = 0
    """How many requests of its own the child had issued before it got this one."""
    attempts: int = 0
    """How often a child has got it."""
    is_task: bool = False
    log_level: str | None = None
    """From which level on this request wants log notices (modern)."""
    progress_token: RequestId | None = None
    held_since: float = 0.0
    progressed: bool = False
    first_page: bool = False
    """It lists without a cursor."""
    honoured: JsonObject | None = None
    """What the acknowledgement of this `subscriptions/listen` promised the client; None until it has one."""
    bound: int = 0
    """The only child that can answer it, having minted the `requestState` it carries; 0 for none."""


class Verdict(enum.Enum):
    """What becomes of a call whose child is gone."""

    HOLD = "hold"
    FAIL = "fail"


def verdict_on(
    call: Call, *, accepted: int, harmless: bool, child_had_asked: bool, may_be_killer: bool
) -> Verdict:
    """Decide over one call of a child that is gone.

    `accepted` is how many bytes that child was handed; `harmless` whether the tool's annotations say
    `readOnlyHint` or `idempotentHint`; `child_had_asked` whether it had issued a request since the call;
    `may_be_killer` whether this call alone was in flight in two crashes running.
    """
    if call.end > accepted:
        return Verdict.HOLD
    match call.loss:
        case Loss.RESEND:
            return Verdict.HOLD
        case Loss.RETRY:
            return Verdict.HOLD if call.attempts <= 1 and not may_be_killer else Verdict.FAIL
        case Loss.CALL:
            safe = harmless and not (call.is_task or call.progressed or child_had_asked or may_be_killer)
            return Verdict.HOLD if safe and call.attempts <= 1 else Verdict.FAIL
        case Loss.ERROR:
            return Verdict.FAIL


_ADVICE = {
    (Reason.EXITED, False): "It may or may not have taken effect: check before calling again.",
    (Reason.EXITED, True): "It changed nothing, so it can be sent again.",
    (Reason.REPLACED, False): "It may or may not have taken effect: check before calling again.",
    (Reason.REPLACED, True): "Send the request again, without the state of the former server.",
}


def lost_error(
    id_: RequestId,
    reason: Reason,
    *,
    what: str,
    exit_: Exit | None = None,
    retryable: bool,
    advice: str | None = None,
) -> bytes:
    """The error frame for a request that gets no answer from a child; `what` names the request."""
    how = f"the MCP server {describe_exit(exit_)}" if exit_ is not None else "the MCP server was replaced"
    message = f"{how} before it answered {what}. {advice or _ADVICE.get((reason, retryable), '')}".rstrip()
    return encode_error(
        id_,
        INTERNAL_ERROR,
        message if reason in (Reason.EXITED, Reason.REPLACED) else (advice or message),
        {
            "reason": reason.value,
            "retryable": retryable,
            "exit_code": exit_.code if exit_ else None,
            "signal": exit_.signal if exit_ else None,
            "stderr_tail": list(exit_.stderr_tail) if exit_ else [],
        },
    )
