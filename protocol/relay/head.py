"""What the relay reads of a message, in the same pass that checks it; all the rest stays bytes."""

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType, field

from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.jsonrpc import MAX_DEPTH, RequestId, check_text, decode_message
from mcpkeep.protocol.relay.mcp import LOG_LEVEL, PROTOCOL_VERSION, SUBSCRIPTION_ID

__all__ = ["NO_META", "Head", "Meta", "Params", "Result", "TaskHandle", "read_head"]


class Meta(msgspec.Struct, gc=False, frozen=True):
    """What matters of `params._meta`."""

    progress_token: RequestId | None = field(default=None, name="progressToken")
    protocol_version: str | None = field(default=None, name=PROTOCOL_VERSION)
    log_level: str | None = field(default=None, name=LOG_LEVEL)
    subscription_id: RequestId | None = field(default=None, name=SUBSCRIPTION_ID)


NO_META = Meta()


class Params(msgspec.Struct, gc=False, frozen=True):
    """What matters of `params`, whichever method has them."""

    name: str | None = None
    uri: str | None = None
    level: str | None = None
    cursor: str | None = None
    request_id: RequestId | None = field(default=None, name="requestId")
    progress_token: RequestId | None = field(default=None, name="progressToken")
    request_state: str | None = field(default=None, name="requestState")
    task_id: str | None = field(default=None, name="taskId")
    task: Raw | UnsetType = UNSET
    meta: Meta = field(default=NO_META, name="_meta")


class TaskHandle(msgspec.Struct, gc=False, frozen=True):
    task_id: str | None = field(default=None, name="taskId")


class Result(msgspec.Struct, gc=False, frozen=True):
    """What matters of a `result`: what binds the client's next request to the child that made it."""

    request_state: str | None = field(default=None, name="requestState")
    task: TaskHandle | None = None


_NO_PARAMS = Params()
_NO_RESULT = Result()


class Head(msgspec.Struct, gc=False):
    """One message of either direction: a request, a notification or a response."""

    jsonrpc: Literal["2.0"]
    id: int | str | UnsetType | None = UNSET
    method: str | None = None
    params: Params = _NO_PARAMS
    result: Result | None = None
    error: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(Head).decode


def read_head(line: bytes) -> Head:
    """Check one line strictly and read its head; members of foreign types count as absent.

    Raises:
        ProtocolError: it is not UTF-8, not JSON, nested too deep, or not one JSON-RPC message.
    """
    try:
        if len(line) > MAX_DEPTH or not line.isascii():
            check_text(line)
        head = _decode(line)
    except msgspec.ValidationError:
        head = _read_envelope(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(str(error)) from error
    if head.method is None:
        if head.id is UNSET:
            raise ProtocolError("the message has neither a method nor an id")
        if head.result is None and head.error is UNSET:
            raise ProtocolError("the response has neither a result nor an error")
    elif head.id is None:
        raise ProtocolError("the id of a request is null")
    return head


def _read_envelope(line: bytes) -> Head:
    message = decode_message(line)
    return Head(
        jsonrpc=message.jsonrpc,
        id=message.id,
        method=None if message.method is UNSET else message.method,
        result=_NO_RESULT if len(memoryview(message.result)) else None,
        error=message.error if len(memoryview(message.error)) else UNSET,
    )
