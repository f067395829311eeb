"""The server's `.mcp_server_state.json` beside a change: each server must find its own when it goes on."""

from pathlib import Path

import msgspec
import psutil

from mcpkeep.protocol.upgrade.places import SERVER_STATE
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, write_durably
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["put_server_state", "save_server_state", "wake_server_state"]

_SAVED = "server_state.json"


class _State(msgspec.Struct, frozen=True):
    pid: int = 0


def save_server_state(at: Layout, change: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Save the file as it is, where there is one. Raises OSError."""
    try:
        data = (at.base / SERVER_STATE).read_bytes()
    except FileNotFoundError:
        return
    write_durably(change / _SAVED, data, calls=calls)


def put_server_state(at: Layout, change: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Put the saved one back, where one was saved. Raises OSError."""
    try:
        data = (change / _SAVED).read_bytes()
    except FileNotFoundError:
        return
    path = at.base / SERVER_STATE
    if not path.exists() or path.read_bytes() != data:
        write_durably(path, data, calls=calls)


def wake_server_state(at: Layout, change: Path | None, *, calls: FileCalls = OS_CALLS) -> None:
    """Put the saved one back where its server is frozen, and so is about to go on. Raises OSError."""
    if change is None:
        return
    try:
        state = msgspec.json.decode((change / _SAVED).read_bytes(), type=_State)
        frozen = psutil.Process(state.pid).status() == psutil.STATUS_STOPPED
    except (FileNotFoundError, msgspec.DecodeError, psutil.Error, ValueError):
        return
    if frozen:
        put_server_state(at, change, calls=calls)
