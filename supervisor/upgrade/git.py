"""Runs git so that it changes nothing it is not told to: no hooks, monitor, locks, prompts, or network."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["GIT_LIMIT", "Blob", "Blobs", "GitAnswer", "ask_git", "ask_many", "list_bounded", "run_git"]

GIT_LIMIT = 120.0
"""Seconds for one call; the history of a large repository from a cold disk takes some."""

_QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    # A partial clone would fetch what it lacks; older git knows the second only.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    # Objects by their own names, whatever refs/replace/ says they are.
    "GIT_NO_REPLACE_OBJECTS": "1",
}
_CHUNK = 1 << 20


class GitAnswer(NamedTuple):
    """How a call ended; never an exception of its own."""

    code: int
    stdout: bytes
    stderr: str
    """Stripped."""


def run_git(
    folder: Path, *words: str, feed: bytes = b"", accept: Sequence[int] = (0,), limit: float = GIT_LIMIT
) -> bytes:
    """What git says on stdout when run in `folder`, with `feed` on its stdin.

    Raises:
        UpgradeFailed: git is missing, took too long, or ended with a code that is not in `accept`.
    """
    done = ask_git(folder, *words, feed=feed, limit=limit)
    if done.code not in accept:
        raise _failed(folder, words, done.code, done.stderr)
    return done.stdout


def ask_git(folder: Path, *words: str, feed: bytes = b"", limit: float = GIT_LIMIT) -> GitAnswer:
    """Run git in `folder`, and answer however it ends. Raises UpgradeFailed where it is missing or hangs."""
    with _start(folder, words) as process:
        return _collect(process, words, feed, limit)


def ask_many(folder: Path, *calls: tuple[str, ...], limit: float = GIT_LIMIT) -> tuple[GitAnswer, ...]:
    """Run several at once, and answer in their order. Raises UpgradeFailed as ask_git() does."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for words in calls:
            processes.append(_start(folder, words))
        return tuple(
            _collect(process, words, b"", limit) for process, words in zip(processes, calls, strict=True)
        )
    finally:
        for process in processes:
            if process.poll() is None:
                _kill(process)
            with process:
                pass


def list_bounded(folder: Path, *words: str, most: int, limit: float = GIT_LIMIT) -> bytes:
    """As run_git(), and it is ended where it says more than `most` bytes: hostile trees have no end."""
    with _start(folder, words, stderr=subprocess.DEVNULL) as process:
        killer = threading.Timer(limit, _kill, (process,))
        killer.daemon = True
        killer.start()
        try:
            assert process.stdout is not None
            said = process.stdout.read(most + 1)
            if len(said) > most:
                raise UpgradeFailed(
                    f"git {words[0]} in {str(folder)!r} has more than {most} bytes to say",
                    remediation="do not install this source; it has more files than any honest one",
                )
        except BaseException:
            _kill(process)
            raise
        finally:
            killer.cancel()
    if process.returncode != 0:
        raise _failed(folder, words, process.returncode, "")
    return said


class Blob(NamedTuple):
    """One object that is being read."""

    oid: str
    size: int
    """Bytes."""
    chunks: Iterator[bytes]
    """To be used up before the next one is asked for."""


class Blobs:
    """Reads many objects with one git, one after the other; a context manager, for one thread.

    Raises UpgradeFailed where an object is missing, or git ends or hangs.
    """

    def __init__(self, folder: Path, *, limit: float = GIT_LIMIT) -> None:
        """`limit` is for all of it, in seconds."""
        self._folder = folder
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._killer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._killer is not None:
            self._killer.cancel()
        if self._process is not None:
            if kind is not None:
                _kill(self._process)
            with self._process as process:
                assert process.stdin is not None
                # Where git has ended, what it was asked last is still to be flushed.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    def open(self, oid: str) -> Blob:
        """Begin to read an object."""
        stdin, stdout = self._streams()
        try:
            stdin.write(oid.encode() + b"\n")
            stdin.flush()
            words = stdout.readline().split()
        except BrokenPipeError:
            words = []
        if len(words) != 3:
            said = " ".join(word.decode() for word in words[1:]) or "git has ended"
            raise UpgradeFailed(
                f"object {oid!r} cannot be read from {str(self._folder)!r}: {said}",
                remediation="check the repository with git fsck, or make a full clone of it",
            )
        size = int(words[2])
        return Blob(oid, size, self._chunks(stdout, size))

    def read(self, oid: str) -> bytes:
        """A whole object."""
        return b"".join(self.open(oid).chunks)

    def size(self, oid: str) -> int:
        """How many bytes an object has."""
        blob = self.open(oid)
        for _ in blob.chunks:
            pass
        return blob.size

    def _chunks(self, stdout: IO[bytes], size: int) -> Iterator[bytes]:
        rest = size
        while rest:
            chunk = stdout.read(min(rest, _CHUNK))
            if not chunk:
                raise UpgradeFailed(
                    f"git ended in the middle of an object of {str(self._folder)!r}",
                    remediation="check the repository with git fsck",
                )
            rest -= len(chunk)
            yield chunk
        stdout.read(1)

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            self._process = _start(self._folder, ("cat-file", "--batch"), stderr=subprocess.DEVNULL)
            self._killer = threading.Timer(self._limit, _kill, (self._process,))
            self._killer.daemon = True
            self._killer.start()
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def _start(folder: Path, words: Sequence[str], *, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.Popen(
            ("git", *_QUIET, *words),
            cwd=folder,
            env={**environment, **_ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise UpgradeFailed(
            f"git cannot be run in {str(folder)!r}: {(error.strerror or str(error)).lower()}",
            remediation="install git, and see that the folder is there and may be entered",
        ) from error


def _collect(process: subprocess.Popen[bytes], words: Sequence[str], feed: bytes, limit: float) -> GitAnswer:
    try:
        stdout, stderr = process.communicate(feed, limit)
    except subprocess.TimeoutExpired as error:
        _kill(process)
        raise UpgradeFailed(
            f"git {words[0]} took longer than {limit:g} s", remediation="look at the repository's disk"
        ) from error
    except BaseException:
        _kill(process)
        raise
    return GitAnswer(process.returncode, stdout, stderr.decode(errors="replace").strip())


def _kill(process: subprocess.Popen[bytes]) -> None:
    # It leads its own group, with whatever it has started.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _failed(folder: Path, words: Sequence[str], code: int, stderr: str) -> UpgradeFailed:
    said = stderr.splitlines()
    return UpgradeFailed(
        f"git {words[0]} failed in {str(folder)!r}: {said[-1] if said else f'code {code}'}",
        remediation="run it there by hand, and mend what it says",
        details={"command": ["git", *words], "stderr_tail": said[-20:]},
    )
