"""Servers of an installation that run without mcpkeep: an upgrade in a terminal would pull files from under
them, and boot a second server on their index.
"""

import os
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import psutil

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import SERVER_STATE
from mcpkeep.supervisor.sweep import RUN_VARIABLE
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["refuse_unkept"]

_MODULE = "mcp_server"


class _ServerState(msgspec.Struct):
    pid: int


def refuse_unkept(layout: Layout) -> None:
    """Raise UpgradeFailed where a server of this installation runs without mcpkeep, with its pid."""
    pid = next(_unkept(layout), None)
    if pid is not None:
        raise UpgradeFailed(
            f"a server of this workspace runs without mcpkeep (pid {pid})",
            remediation="close the IDE's session with it, or let the IDE's entry start `mcpkeep run`; "
            "then try again",
            details={"pid": pid},
        )


def _unkept(layout: Layout) -> Iterator[int]:
    """The pids, that of the server's own state file first."""
    try:
        process = psutil.Process(_stated_pid(layout))
        if process.uids().real == os.getuid() and _runs_unkept(process, layout, stated=True):
            yield process.pid
    except (OSError, ValueError, msgspec.DecodeError, psutil.Error):
        pass
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and _runs_unkept(process, layout, stated=False):
                yield process.pid
        except (OSError, psutil.Error):
            continue


def _stated_pid(layout: Layout) -> int:
    return msgspec.json.decode((layout.base / SERVER_STATE).read_bytes(), type=_ServerState).pid


def _runs_unkept(process: psutil.Process, layout: Layout, *, stated: bool) -> bool:
    """Whether it is a server of this installation, and not an mcpkeep's. What is `stated` need not be started
    by `-m`, or by the installation's own interpreter.
    """
    words = process.cmdline()
    named = any(_MODULE in word for word in words) if stated else ("-m", _MODULE) in pairwise(words)
    if not named:
        return False
    folder = process.cwd()
    # The interpreter itself is a link out of the venv: its folder says what venv it is of.
    home = os.path.realpath(os.path.join(folder, os.path.dirname(words[0])))
    inside = _is_within(home, str(layout.base))
    if not inside and (stated or home == os.path.realpath(layout.venv / "bin")):
        # A venv elsewhere may serve other workspaces, too.
        inside = _is_within(os.path.realpath(folder), os.path.realpath(layout.workspace))
    # Last of all, since a process that was just executed has its command before its environment.
    return inside and RUN_VARIABLE not in process.environ()


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
