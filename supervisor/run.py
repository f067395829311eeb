"""`mcpkeep run` up to its first child: that is spawned before anything slow is imported."""

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import TYPE_CHECKING, cast

from mcpkeep.protocol.errors import SpawnError
from mcpkeep.supervisor.launch import launch
from mcpkeep.supervisor.orphans import Watcher
from mcpkeep.supervisor.process import Spawned, spawn_child

if TYPE_CHECKING:
    from mcpkeep.supervisor.options import RunOptions

__all__ = ["ending_signals", "run"]

SWITCH_INTERVAL = 0.0005
"""Seconds for which one thread keeps the interpreter from another: the relay from one that imports or hashes,
where Python's own 5 ms add up to a quarter of a second per call, and the watcher's start from our imports.
"""

_OPTIONAL = ("ssl", "typing_extensions")
"""What asyncio and msgspec import where it is installed, and we use nothing of: the relay speaks no TLS, and
our types need no more than `typing`. An eighth of the time to the first answer. anyio imports both, later.
"""


def run(options: "RunOptions") -> int:
    """Serve the client on stdin and stdout until it ends; the exit code.

    Nothing but JSON-RPC goes to stdout from here on, whoever prints.
    """
    sys.stdout = sys.stderr
    sys.setswitchinterval(SWITCH_INTERVAL)
    asked: list[int] = []
    _take_signals(asked.append)  # to leave without the watcher would leave the child
    _mend_inheritance()
    run_id = os.urandom(16).hex()
    first: Spawned | None = None
    with suppress(SpawnError):  # the child actor meets it again, and tells the client
        command, env = launch(options, options.release)
        first = spawn_child(command, cwd=options.cwd, env=env, run_id=run_id, generation=1)
    watcher = Watcher(run_id)
    try:
        _take_signals(_leave)
        if asked:
            return 128 + asked[0]
        with _passing_by(*_OPTIONAL):
            from mcpkeep.supervisor.serve import serve
        watcher.ready()
        return serve(options, run_id, first)
    except KeyboardInterrupt:  # after the tree has given the signals back
        return 128 + signal.SIGINT
    finally:
        watcher.close()


@contextmanager
def _passing_by(*modules: str) -> Generator[None]:
    """Import as where these are not installed; later imports find them."""
    imported = cast("dict[str, ModuleType | None]", sys.modules)
    absent = [name for name in modules if name not in imported]
    imported.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del imported[name]


def _take_signals(ending: Callable[[int], None]) -> None:
    """Until the front takes them: those that end mcpkeep go to `ending`, and none that restarts ends it.

    Handlers, since what is ignored or blocked would be so in the child too.
    """
    for number in ending_signals():
        signal.signal(number, lambda number, _frame: ending(number))
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda _number, _frame: None)


def ending_signals() -> list[signal.Signals]:
    """Those that end mcpkeep; nohup, and shells that start a job in the background, ignore some for us."""
    spared = (signal.SIGINT, signal.SIGHUP)
    return [signal.SIGTERM, *(n for n in spared if signal.getsignal(n) is not signal.SIG_IGN)]


def _leave(number: int) -> None:
    _take_signals(lambda number: None)  # another one must not break off the wait for the watcher
    raise SystemExit(128 + number)


def _mend_inheritance() -> None:
    """Undo what a parent left: exit codes that nobody can ask for, blocked signals, missing stdio."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:  # else the next pipe would become somebody's stdout
            os.open(os.devnull, os.O_RDWR)
