"""One fsync of a folder for all the threads that wait for one."""

import threading
from pathlib import Path

from mcpkeep.supervisor.durable import OS_CALLS, FileCalls

__all__ = ["FolderSync"]


class FolderSync:
    """Shares a folder's fsync among threads: whoever comes while one runs joins the next."""

    def __init__(self, folder: Path, *, calls: FileCalls = OS_CALLS) -> None:
        self._folder = folder
        self._calls = calls
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._next = _Round()

    @property
    def waiting(self) -> int:
        """How many threads will share the fsync that has not begun yet."""
        return self._next.sharers

    def __call__(self) -> None:
        """Return once an fsync that began after this call has ended. Raises OSError where it failed."""
        with self._lock:
            mine = self._next
            mine.sharers += 1
            leads = mine.sharers == 1
        if not leads:
            mine.done.wait()
        else:
            with self._running:
                with self._lock:
                    self._next = _Round()
                try:
                    self._calls.fsync_folder(self._folder)
                except OSError as e:
                    mine.error = e
                finally:
                    mine.done.set()
        if mine.error is not None:
            raise OSError(*mine.error.args) from mine.error


class _Round:
    def __init__(self) -> None:
        self.sharers = 0
        self.done = threading.Event()
        self.error: OSError | None = None
