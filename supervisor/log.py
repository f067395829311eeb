"""Logging that can never stop or block the relay: to stderr and to a rotating file, never to stdout.

Whoever logs only appends to a bounded queue; one thread per sink writes. A sink that does not keep up, such
as a stderr that nobody reads, loses records, and says how many once it moves again.

Several mcpkeep processes may serve one workspace. They share one log file: each record is one appending
write and carries its pid, and whoever finds the file full renames it under a lock on its folder; the others
notice by its inode and open the new one.
"""

import errno
import fcntl
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

__all__ = ["Logging", "log_at", "start_logging"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_QUEUE_BYTES = 1 << 20
_LONGEST_MESSAGE = 16 * 1024
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\t\n"}


class _Target(Protocol):
    """Where a sink's thread writes."""

    def write(self, data: bytes) -> None:
        """Write one record whole.

        Raises:
            OSError: it could not be written.
        """
        ...


class _Sink:
    """A bounded queue of encoded records, and the thread that writes them to one target."""

    def __init__(
        self, name: str, target: _Target, note: Callable[[str], bytes], tell: "_Sink | None" = None
    ) -> None:
        self._name = name
        self._target = target
        self._note = note
        self._tell = tell
        self._failing = False
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self.dropped = 0
        self._untold = 0
        # A daemon, since the write it is in may never return.
        self._thread = threading.Thread(target=self._work, name=f"mcpkeep log to {name}", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        with self._changed:
            if self._bytes + len(data) > _QUEUE_BYTES or self._closing:
                self._lose()
                return
            self._waiting.append(data)
            self._bytes += len(data)
            self._changed.notify()

    def close(self, timeout: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _lose(self) -> None:
        self.dropped += 1
        self._untold += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closing:
                        return
                    self._changed.wait()
                data = self._waiting.popleft()
                self._bytes -= len(data)
                untold = self._untold
            try:
                if untold:
                    self._target.write(self._note(f"{untold} log records before this one were lost"))
                    with self._changed:
                        self._untold -= untold
                self._target.write(data)
                self._failing = False
            except OSError as error:
                with self._changed:
                    self._lose()
                if self._tell is not None and not self._failing:
                    self._tell.put(self._note(f"{self._name} cannot be written: {error.strerror or error}"))
                self._failing = True


class _Descriptor:
    """A stream that is open already, such as stderr. Blocks as long as its reader does."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Whoever shares the stream may have made it non-blocking.
                waiter = select.poll()
                waiter.register(self._fd, select.POLLOUT)
                waiter.poll()


class _RotatingFile:
    """A file that is appended to, made anew where it vanished, and renamed to `.1`, `.2`... when full."""

    def __init__(self, path: str, *, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd: int | None = None
        self._made = False
        self._cut = False

    def write(self, data: bytes) -> None:
        fd = self._current()
        if os.fstat(fd).st_size + len(data) > self._max_bytes and os.fstat(fd).st_size:
            self._rotate(fd)
            fd = self._current()
        if self._cut:
            data = b"\n" + data
        written = os.write(fd, data)
        self._cut = written < len(data)
        if self._cut:
            raise OSError(errno.ENOSPC, "the disk is full", self._path)

    def _current(self) -> int:
        """The descriptor of the file that is at the path now."""
        if self._fd is not None and not self._is_at_path(self._fd):
            os.close(self._fd)
            self._fd = None
        if self._fd is None:
            self._make_folder()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600)  # a fifo must not block either
            self._cut = False
        return self._fd

    def _make_folder(self) -> None:
        folder = os.path.dirname(self._path)
        if not self._made:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        elif not os.path.isdir(folder):
            os.mkdir(folder, 0o700)  # not what is above it: a workspace that was moved is not made anew
        self._made = True

    def _is_at_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(fd))
        except OSError:
            return False

    def _rotate(self, fd: int) -> None:
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # another process is at it, or the file system knows no locks: the file grows a little
            if not self._is_at_path(fd):
                return
            for number in range(self._keep, 1, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{self._path}.{number - 1}", f"{self._path}.{number}")
            if self._keep:
                os.replace(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
        finally:
            os.close(folder)


class _Queueing(logging.Handler):
    """Encodes a record where it is made, since its arguments may change later, and queues it."""

    def __init__(self, encode: Callable[[str, str, float, str], bytes], sinks: list[_Sink]) -> None:
        super().__init__()
        self._encode = encode
        self._sinks = sinks

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
        except Exception as error:  # arguments that do not fit the text, or whose __str__ fails
            message = f"a record of {record.pathname}:{record.lineno} failed with {type(error).__name__}"
        data = self._encode(record.levelname.lower(), record.name, record.created, message)
        for sink in self._sinks:
            sink.put(data)


class Logging:
    """Logging that is running; made by `start_logging`."""

    def __init__(self, handler: logging.Handler, sinks: list[_Sink]) -> None:
        self._handler = handler
        self._sinks = sinks

    @property
    def dropped(self) -> int:
        """How many records a sink has lost, over all sinks."""
        return sum(sink.dropped for sink in self._sinks)

    def close(self, timeout: float = 0.5) -> None:
        """Stop logging; what is queued is written if that takes at most `timeout` seconds per sink."""
        logging.getLogger().removeHandler(self._handler)
        for sink in reversed(self._sinks):  # stderr last, since the file's troubles are told there
            sink.close(timeout)


def start_logging(
    *,
    level: str = "info",
    format: Literal["text", "json"] = "text",
    file: str | None = None,
    max_bytes: int = 5 << 20,
    keep: int = 3,
    stderr: int | None = 2,
) -> Logging:
    """Log everything under the logger `mcpkeep` from `level` on, and warnings of other libraries.

    Never raises for what the sinks are: a folder that cannot be written, a full disk, a closed stderr.
    `stderr` is a descriptor, None for no such sink.
    """
    encode = _encode_json if format == "json" else _encode_text

    def note(text: str) -> bytes:
        return encode("warning", __name__, datetime.now(UTC).timestamp(), text)

    sinks: list[_Sink] = []
    if stderr is not None and not (stderr == 2 and sys.stderr is None):  # else 2 is someone else's by now
        sinks.append(_Sink("stderr", _Descriptor(stderr), note))
    if file is not None:
        target = _RotatingFile(file, max_bytes=max_bytes, keep=keep)
        sinks.append(_Sink(file, target, note, tell=sinks[0] if sinks else None))
    handler = _Queueing(encode, sinks)
    logging.getLogger().addHandler(handler)
    logging.getLogger("mcpkeep").setLevel(level.upper())
    return Logging(handler, sinks)


def log_at(level: str, text: str) -> None:
    """Log under `mcpkeep` at a level by its name in the settings: debug, info, warning or error."""
    logging.getLogger("mcpkeep").log(_LEVELS[level], text)


def _stamp(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(message: str) -> str:
    if len(message) <= _LONGEST_MESSAGE:
        return message
    return f"{message[:_LONGEST_MESSAGE]}... ({len(message)} characters)"


def _encode_text(level: str, name: str, created: float, message: str) -> bytes:
    """One line; further lines of the message are indented, and control characters are spelt out."""
    text = _cut(message).translate(_CONTROLS).replace("\n", "\n    ")
    line = f"{_stamp(created)} {level:7} {name}[{os.getpid()}] {text}\n"
    return line.encode(errors="backslashreplace")


def _encode_json(level: str, name: str, created: float, message: str) -> bytes:
    text = _cut(message).encode(errors="backslashreplace").decode()
    record = {"time": _stamp(created), "level": level, "pid": os.getpid(), "logger": name, "message": text}
    return msgspec.json.encode(record) + b"\n"
