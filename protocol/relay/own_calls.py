"""Calls of our own tools: handed to whoever serves them, answered to the client in the words of its era."""

from msgspec import Raw

from mcpkeep.protocol.relay.call import OURS, Call
from mcpkeep.protocol.relay.calls import Calls
from mcpkeep.protocol.relay.jsonrpc import (
    INVALID_PARAMS,
    RequestId,
    decode_message,
    decode_object,
    encode_error,
    encode_notification,
    encode_result,
)
from mcpkeep.protocol.relay.mcp import Era
from mcpkeep.protocol.relay.opening import Opening, has_envelope
from mcpkeep.protocol.relay.output import Output
from mcpkeep.protocol.relay.tools import ToolCall, ToolCalled, ToolResult, encode_tool_result

__all__ = ["OwnCalls"]


class OwnCalls:
    def __init__(self, out: Output, *, calls: Calls, opening: Opening) -> None:
        self._out = out
        self._calls = calls
        self._opening = opening

    def begin(self, call: Call) -> None:
        """Ask for the answer to a call that the client has just made; a modern one needs its envelope."""
        params = decode_message(call.frame).params
        if self._opening.era is Era.MODERN and not has_envelope(params):
            text = "the request lacks the protocol version or the client's capabilities in `params._meta`"
            self._out.client.append(encode_error(call.id, INVALID_PARAMS, text))
            return
        call.generation = OURS
        self._calls.table[call.id] = call
        arguments = decode_object(params).get("arguments", Raw())
        asked = ToolCall(call.id, call.subject or "", arguments, call.progress_token)
        self._out.effects.append(ToolCalled(asked))

    def answer(self, id_: RequestId, result: ToolResult) -> None:
        """Our own tool has finished a call; nothing goes out where the client waits no longer."""
        call = self._calls.table.get(id_)
        if call is not None and call.generation == OURS:
            self._calls.remove(call)
            modern = self._opening.era is Era.MODERN
            self._out.client.append(encode_result(id_, encode_tool_result(result, modern=modern)))

    def progress(self, id_: RequestId, progress: float, total: float | None, text: str) -> None:
        """Our own tool is under way with a call; told where the client asked for progress."""
        call = self._calls.table.get(id_)
        if call is not None and call.generation == OURS and call.progress_token is not None:
            params: dict[str, object] = {"progressToken": call.progress_token, "progress": progress}
            if total is not None:
                params["total"] = total
            params["message"] = text
            self._out.client.append(encode_notification("notifications/progress", params))
