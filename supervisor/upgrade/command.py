"""Runs a tool to its end: in a session of its own, with a limit, read line by line, and stoppable."""

import os
import signal
import subprocess
import threading
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

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that say something."""
        return tuple(line.rstrip() for line in self.text.splitlines() if line.strip())


def run_command(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    limit: float,
    cwd: str = "/",
    stopper: Stopper | None = None,
    on_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run it, wait for its end, and end whatever it left in its session's group.

    Args:
        limit: Seconds; then it is killed.
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
    timed_out = threading.Event()

    def kill() -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def expire() -> None:
        timed_out.set()
        kill()

    assert process.stdout is not None
    pieces: deque[str] = deque(maxlen=_PIECES)
    reader = threading.Thread(target=_read, args=(process.stdout, pieces, on_line), daemon=True)
    timer = threading.Timer(limit, expire)
    timer.daemon = True
    reader.start()
    timer.start()
    stopper = stopper or Stopper()
    try:
        stopper.attach(kill)
        code = process.wait()
    finally:
        stopper.attach(None)
        timer.cancel()
        kill()
        process.wait()
        reader.join(_DRAIN)
        if not reader.is_alive():
            process.stdout.close()
    stopper.check()
    return Finished(code, "".join(tuple(pieces)), timed_out.is_set())


def _read(stream: IO[str], pieces: deque[str], on_line: Callable[[str], None] | None) -> None:
    # A progress bar's carriage returns end lines, too: the stream's newlines are universal.
    with suppress(ValueError):
        while piece := stream.readline(_PIECE):
            pieces.append(piece)
            if on_line is not None and (line := piece.strip()):
                on_line(line)
