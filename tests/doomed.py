"""mcpkeep that is struck by a signal just before the n-th thing it does to the disk, or after it has spawned.

    python doomed.py <n, or -1> <signal> <trace> <mcpkeep's words>...

Counted are all calls that change the disk durably, each record of a journal among them, and every process.
The trace has a line for each: what it was, and from where it was done.
"""

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from mcpkeep.supervisor.durable import OsCalls

COUNTED = (
    "create",
    "open_append",
    "write",
    "fsync",
    "fsync_file",
    "rename",
    "link",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
    "chmod",
    "utime",
    "truncate",
    "fsync_folder",
    "sync_tree",
)
_DEPTH = 4
"""Frames that tell one place in the code from another."""


class Doom:
    """Counts, and strikes."""

    def __init__(self, at: int, number: int, trace: str) -> None:
        self._at = at
        self._number = number
        self._trace = os.open(trace, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._count = 0

    def pass_by(self, what: str) -> None:
        """One more thing is about to be done."""
        with self._lock:
            if self._count == self._at:
                os.kill(os.getpid(), self._number)
            self._count += 1
            os.write(self._trace, f"{what} {place_of()}\n".encode())


def place_of() -> str:
    """The frames of mcpkeep that are at work, innermost first."""
    frame = inspect.currentframe()
    names: list[str] = []
    while frame is not None and len(names) < _DEPTH:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("mcpkeep.") and not name.endswith(".durable"):
            names.append(f"{name.rsplit('.', 1)[-1]}.{frame.f_code.co_name}")
        frame = frame.f_back
    return "<".join(names)


def doom(at: int, number: int, trace: str) -> None:
    """From now on, count; and at the call `at` send that signal to this process."""
    doomed = Doom(at, number, trace)

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            doomed.pass_by(name)
            return real(*arguments, **named)

        return call

    for name in COUNTED:
        setattr(OsCalls, name, counted(name, getattr(OsCalls, name)))
    spawn = subprocess.Popen.__init__

    def spawned(*arguments: Any, **named: Any) -> None:
        spawn(*arguments, **named)
        doomed.pass_by("spawned")

    subprocess.Popen.__init__ = spawned  # type: ignore[method-assign]


def main(words: list[str]) -> int:
    at, number, trace, *rest = words
    doom(int(at), int(number), trace)
    from mcpkeep.supervisor.app import cli

    sys.argv = ["mcpkeep", *rest]
    return cli()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
