"""Children on this machine: their life as processes, and their pipes wired to the relay."""

import asyncio
import contextvars
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio

from mcpkeep.actors.interfaces import Wire
from mcpkeep.protocol.switch import Exit
from mcpkeep.supervisor.child_wire import RelayPort, connect_child
from mcpkeep.supervisor.launch import Launch
from mcpkeep.supervisor.orphans import descendants, end_processes
from mcpkeep.supervisor.process import Spawned, spawn_child
from mcpkeep.supervisor.stderr import StderrTail
from mcpkeep.supervisor.sweep import sweep
from mcpkeep.supervisor.wire import PIPE_CAPACITY, FdWire

__all__ = ["EXIT_TAIL_LINES", "LocalHost", "LocalProcess"]

EXIT_TAIL_LINES = 40
"""Lines of stderr in an Exit: a Python traceback through a framework, not a log file in each error answer."""

KILL_GRACE = 5.0
"""Seconds that a killed process may take to go; longer, it is stuck in the kernel and not waited for."""

_STDERR_CHUNK = 16384
"""Bytes of stderr taken in one turn of the loop, so that a flood of it leaves the data path its share."""


class LocalHost:
    """Starts servers one after the other, and now and then beside one another; a `ChildHost`."""

    def __init__(
        self,
        launch: Callable[[str | None], Launch],
        *,
        cwd: str,
        run_id: str,
        relay: RelayPort,
        on_stderr_line: Callable[[int, str], None],
        first: tuple[Spawned, FdWire] | None = None,
    ) -> None:
        """Take how to start a release, or with None the command as configured; asked before each start.

        It raises SpawnError where the release is not there. `first` is a child that runs and is connected
        already, and is what spawn() gives for its generation.
        """
        self._launch = launch
        self._cwd = cwd
        self._run_id = run_id
        self._relay = relay
        self._on_stderr_line = on_stderr_line
        self._first = first
        self._processes: dict[int, LocalProcess] = {}
        """Those that have not ended, and the newest one."""

    def stderr_lines(self, count: int, generation: int | None = None) -> tuple[str, ...]:
        """The last lines of stderr of the newest child, or of that one while it lives, oldest first."""
        if generation is None:
            generation = max(self._processes, default=0)
        process = self._processes.get(generation)
        return process.stderr_lines(count) if process is not None else ()

    @property
    def is_idle(self) -> bool:
        """Whether no child of it runs."""
        return all(process.has_ended for process in self._processes.values())

    async def spawn(self, generation: int, release: str | None) -> "LocalProcess":
        """Start the release, or take the first child; its wire is connected to the relay as `generation`.

        Raises:
            SpawnError: it could not be executed; the text says which and why.
        """
        if self._first is not None and self._first[0].generation == generation:
            (spawned, wire), self._first = self._first, None
        else:
            command, env = self._launch(release)
            spawned = spawn_child(command, cwd=self._cwd, env=env, run_id=self._run_id, generation=generation)
            wire = connect_child(self._relay, spawned)
        process = LocalProcess(spawned, wire, partial(self._on_stderr_line, generation))
        self._processes = {old: running for old, running in self._processes.items() if not running.has_ended}
        self._processes[generation] = process
        return process


class LocalProcess:
    """A child that was spawned here; a `ChildProcess`. To be made in the running event loop.

    However it ends, its group and all that carries its mark end with it.
    """

    def __init__(self, spawned: Spawned, wire: FdWire, on_stderr_line: Callable[[str], None]) -> None:
        self._popen = spawned.popen
        self._run_id = spawned.run_id
        self._generation = spawned.generation
        self._wire = wire
        self._tail = StderrTail(on_stderr_line)
        self._stderr = spawned.stderr
        self._ended = anyio.Event()
        self._exit = Exit()
        # Held while the pid is used, and while it is given back to the kernel.
        self._pid_lock = threading.Lock()
        self._reaped = False
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # a thread's own knows no event loop
        self._loop.add_reader(self._stderr, self._read_stderr)
        threading.Thread(target=self._reap, name=f"wait-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def wire(self) -> Wire:
        return self._wire

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def stderr_lines(self, count: int) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first, at most TAIL_LINES."""
        return self._tail.last(count)

    async def wait(self) -> Exit:
        """Wait for the process to end; all it wrote has been handed on by then. May be awaited again."""
        await self._ended.wait()
        return self._exit

    async def stop(self, *, eof_grace: float | None, term_grace: float) -> Exit:
        """End it: close stdin, wait, SIGTERM to its group, wait, SIGKILL to its whole tree. Seconds.

        With `eof_grace` None its stdin stays open, and SIGTERM comes first. A cancelled stop kills at once.
        Returns what wait() returns.
        """
        try:
            if eof_grace is not None:
                self._wire.close_writing()
                with anyio.move_on_after(eof_grace):
                    return await self.wait()
            self._signal_group(signal.SIGTERM)
            with anyio.move_on_after(term_grace):
                return await self.wait()
        finally:
            if not self._ended.is_set():
                self.kill()
                with anyio.move_on_after(KILL_GRACE, shield=True):
                    await self.wait()
        if not self._ended.is_set():
            self._finish(-signal.SIGKILL)
        return self._exit

    def freeze(self) -> None:
        """SIGSTOP its group: it does nothing, keeps its memory and its ports, and can be killed."""
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT its group."""
        self._signal_group(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL its whole tree, now: its descendants, its group, and all that carries its mark."""
        # Listing the tree takes milliseconds, and importing psutil more: not in the loop.
        threading.Thread(target=self._kill_tree, name=f"kill-{self.pid}", daemon=True).start()

    def _kill_tree(self) -> None:
        with self._pid_lock:
            # Listed before the child dies: its children would no longer be known as such.
            tree = [] if self._reaped else descendants(self.pid)
        self._signal_group(signal.SIGKILL)
        end_processes(tree)
        sweep(self._run_id, self._generation)

    def _signal_group(self, number: signal.Signals) -> None:
        # PermissionError: on macOS, a group of which only a zombie is left.
        with self._pid_lock, suppress(ProcessLookupError, PermissionError):
            if not self._reaped:
                os.killpg(self.pid, number)

    def _reap(self) -> None:
        if hasattr(os, "waitid"):
            # The dead child keeps its pid until wait(), so its group is surely the one that is meant.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._signal_group(signal.SIGKILL)
            with self._pid_lock:
                code = self._popen.wait()
                self._reaped = True
        else:
            code = self._popen.wait()
            # While others of the group live, no new process gets its number.
            self._signal_group(signal.SIGKILL)
            self._reaped = True
        # A closed loop: nobody waits for the news.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, code, context=self._context)
        sweep(self._run_id, self._generation)

    def _finish(self, code: int) -> None:
        if self._ended.is_set():
            return
        try:
            # A descendant may hold the pipes open for ever: what the child wrote is in them now.
            self._drain_stderr()
            self._wire.drain_now(PIPE_CAPACITY)
            self._wire.take_back_unread()
        finally:
            self._wire.close()
            tail = self._tail.last(EXIT_TAIL_LINES)
            if code < 0:
                self._exit = Exit(signal=_signal_name(-code), stderr_tail=tail)
            else:
                self._exit = Exit(code=code, stderr_tail=tail)
            self._ended.set()

    def _read_stderr(self) -> bool:
        """Take one chunk; False if there is none for now, or never again."""
        try:
            data = os.read(self._stderr, _STDERR_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._tail.feed(data)
        else:
            self._close_stderr()
        return bool(data)

    def _drain_stderr(self) -> None:
        taken = 0
        while self._stderr >= 0 and taken < PIPE_CAPACITY and self._read_stderr():
            taken += _STDERR_CHUNK
        if self._stderr >= 0:
            self._close_stderr()

    def _close_stderr(self) -> None:
        self._loop.remove_reader(self._stderr)
        os.close(self._stderr)
        self._stderr = -1
        self._tail.end()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # The real-time signals between the named ends.
        return f"signal {number}"
