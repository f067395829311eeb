"""No orphans: the watcher that outlives mcpkeep by milliseconds, and the end of a child's whole tree.

Light to import: the watcher is started right after the first child, beside mcpkeep's other imports.
"""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from mcpkeep.supervisor import sweep
from mcpkeep.supervisor.sweep import GENERATION_VARIABLE, RUN_VARIABLE

if TYPE_CHECKING:
    import psutil

__all__ = ["Watcher", "descendants", "end_processes"]


REPLACE_PAUSE = 0.1
"""Seconds until a watcher that was killed is replaced."""


class Watcher:
    """A small process in a session of its own that ends the run's processes when mcpkeep is gone.

    From the moment `ready` returns, no end of mcpkeep, SIGKILL included, leaves a process that carries the
    run's id. The pipe's end is the signal: nothing but mcpkeep's own end, or close(), gives it. One that is
    killed itself is replaced.
    """

    def __init__(self, run_id: str) -> None:
        """Begin to start it, in a thread: for the 6 ms that it takes to be executed, others need not wait."""
        # An outer mcpkeep that ends must not kill this watcher before the inner mcpkeep's children are ended.
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in (RUN_VARIABLE, GENERATION_VARIABLE)
        }
        command = [sys.executable, "-I", "-S", os.path.abspath(sweep.__file__), run_id]
        if sys.platform != "linux":
            import importlib.util

            spec = importlib.util.find_spec("psutil")
            if spec is not None and spec.origin is not None:
                command.append(os.path.dirname(os.path.dirname(spec.origin)))
        self._command, self._env = command, env
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._begun = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._write_end = -1
        self._error: OSError | None = None
        threading.Thread(target=self._keep, name="watcher", daemon=True).start()

    def ready(self) -> None:
        """Wait until it runs.

        Raises:
            OSError: no process or no pipe could be had.
        """
        self._begun.wait()
        if self._error is not None:
            raise self._error

    @property
    def pid(self) -> int:
        """Its process, once it is ready."""
        assert self._process is not None, "not ready"
        return self._process.pid

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(
                self._command,
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=self._env,
                start_new_session=True,
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return process, write_end

    def _keep(self) -> None:
        """Start it, and another in the place of one that was killed, by a person or for want of memory."""
        try:
            self._process, self._write_end = self._start()
        except OSError as error:
            self._error = error
            return
        finally:
            self._begun.set()
        while True:
            self._process.wait()
            # Not in a tight loop, should each end at once.
            if self._closed.wait(REPLACE_PAUSE):
                return
            with self._lock, suppress(OSError):
                if not self._closed.is_set():
                    former = self._write_end
                    self._process, self._write_end = self._start()
                    os.close(former)

    def close(self) -> None:
        """End the run's processes now, and wait until that is done; not needed before mcpkeep's own end.

        Where it could not be started, nothing is done.
        """
        self._begun.wait()
        if self._process is None:
            return
        with self._lock:
            if not self._closed.is_set():
                self._closed.set()
                os.close(self._write_end)
        self._process.wait(sweep.SWEEP_LIMIT + 5)


def descendants(pid: int) -> "list[psutil.Process]":
    """The living children of `pid`, theirs, and so on; empty if there is no such process."""
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def end_processes(processes: "list[psutil.Process]") -> None:
    """SIGKILL each that still is the process it was when it was listed."""
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.kill()
