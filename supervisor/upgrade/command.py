"""Runs a tool to its end: in a session of its own, with a limit, read line by line, and stoppable."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

__all__ = ["Finished", "Stopped", "Stopper", "run_command"]

_PIECE = 4096
_PIECES = 1000
"""Characters and how many: what is kept of the output, the newest 4 MB at most."""

_DRAIN = 5.0
"""Seconds for the output's rest, once the process and its group are gone."""


class Stopped(Exception):
    """The work was stopped from outside."""


class Stopper:
    """Stops work that runs in another thread: its process now, or itself where it next checks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._kill: Callable[[], None] | None = None

    def stop(self) -> None:
        """May be called from any thread, and again."""
        with self._lock:
            self._stopped = True
            if self._kill is not None:
                self._kill()

    def check(self) -> None:
        """Raise Stopped where it was stopped."""
        if self._stopped:
            raise Stopped

    def attach(self, kill: Callable[[], None] | None) -> None:
        """What `stop` is to call, now if it was called already."""
        with self._lock:
            self._kill = kill
            if self._stopped and kill is not None:
                kill()


class Finished(NamedTuple):
    """How it ended."""

    code: int
    """As in subprocess: negative for a signal."""
    text: str
    """stdout and stderr as they came."""
    timed_out: bool
    """Whether it was ended at a limit."""
    silent: bool = False
    """Whether that was the limit of its silence."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that say something."""
        return tuple(line.rstrip() for line in self.text.splitlines() if line.strip())


def run_command(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    limit: float,
    silence: float | None = None,
    cwd: str = "/",
    stopper: Stopper | None = None,
    on_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run it, wait for its end, and end whatever it left in its session's group.

    Args:
        limit: Seconds; then it is killed.
        silence: Seconds without a line of output, after which it is killed before that.
        on_line: Takes each line as it comes, in another thread.

    Raises:
        Stopped: by the stopper; nothing of it runs any more.
        OSError: it could not be executed.
    """
    process = subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=dict(env),
        start_new_session=True,
        pass_fds=tuple(pass_fds),
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    expired = threading.Event()
    limits = _Limits(limit, silence)

    def kill() -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def expire() -> None:
        if limits.pass_by():
            expired.set()
            kill()

    assert process.stdout is not None
    pieces: deque[str] = deque(maxlen=_PIECES)
    reader = threading.Thread(target=_read, args=(process.stdout, pieces, limits, on_line), daemon=True)
    watch = threading.Thread(target=expire, daemon=True)
    reader.start()
    watch.start()
    stopper = stopper or Stopper()
    try:
        stopper.attach(kill)
        code = process.wait()
    finally:
        stopper.attach(None)
        limits.end()
        kill()
        process.wait()
        reader.join(_DRAIN)
        if not reader.is_alive():
            process.stdout.close()
    stopper.check()
    return Finished(code, "".join(tuple(pieces)), expired.is_set(), expired.is_set() and limits.silent)


class _Limits:
    """When a process has taken too long, or been silent for too long."""

    def __init__(self, limit: float, silence: float | None) -> None:
        self._silence = silence
        self._end = time.monotonic() + limit
        self._over = threading.Event()
        self.silent = False
        self.hear()

    def hear(self) -> None:
        self._heard = time.monotonic()

    def end(self) -> None:
        """Have nobody wait for them any more."""
        self._over.set()

    def pass_by(self) -> bool:
        """Wait until one of them has passed; False where the process ended before."""
        while True:
            end = self._end
            if self._silence is not None:
                end = min(end, self._heard + self._silence)
            if (left := end - time.monotonic()) <= 0:
                self.silent = end < self._end
                return True
            if self._over.wait(left):
                return False


def _read(
    stream: IO[str], pieces: deque[str], limits: _Limits, on_line: Callable[[str], None] | None
) -> None:
    # A progress bar's carriage returns end lines, too: the stream's newlines are universal.
    with suppress(ValueError):
        while piece := stream.readline(_PIECE):
            limits.hear()
            pieces.append(piece)
            if on_line is not None and (line := piece.strip()):
                on_line(line)
