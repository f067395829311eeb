"""Trees are walked without following a link; files are copied and hashed in one pass."""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from mcpkeep.protocol.upgrade.backup import BackedUpFile
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.left_out import is_left_out
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.workspace import index_folder

__all__ = [
    "Check",
    "Tree",
    "copy_file",
    "hash_file",
    "hash_link",
    "no_text",
    "spread",
    "unreadable",
    "walk",
]

T = TypeVar("T")
R = TypeVar("R")

Check = Callable[[], None]
"""Called between files; raises where the work is no longer wanted."""

# hashlib lets go of the interpreter's lock for the whole chunk; larger ones were not faster.
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_TRIES = 5

# Measured on two cores, 20,000 files of 500 MB: one thread 8.7 s, two 5.4 s, four 5.0 s; but with four the
# relay, which shares the interpreter's lock, waits twice as long for its turn. Few small files are copied
# soonest by one thread, since there is nearly nothing but calls that want that lock.
_THREADS = 2
_FEW = 1_000


class Tree(NamedTuple):
    """What a walk found, by path relative to its root, with `/`, sorted."""

    folders: Mapping[str, int]
    """With their permission bits; parents before their children."""
    files: tuple[str, ...]
    links: tuple[str, ...]
    left_out: tuple[str, ...]
    """No content, and what is neither file, folder nor link."""


def walk(root: Path, *, content: bool = False) -> Tree:
    """Find everything below `root`, or with `content` all that is an installation's content.

    Raises UpgradeFailed, which names it, where a folder cannot be read or a name cannot be written down.
    """
    folders: dict[str, int] = {}
    files: list[str] = []
    links: list[str] = []
    left_out: list[str] = []
    index = os.path.relpath(index_folder(str(root)), root) if content else None

    def enter(prefix: str) -> None:
        try:
            with os.scandir(root / prefix) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as e:
            raise unreadable(prefix or root.name, e) from e
        names = {entry.name for entry in entries}
        if content and "pyvenv.cfg" in names and prefix.count("/") == 1:
            del folders[prefix[:-1]]
            left_out.append(prefix[:-1])
            return
        for entry in entries:
            path = prefix + entry.name
            if content and (path == index or is_left_out(path)):
                left_out.append(path)
            elif not _can_be_written_down(path):
                name = os.fsencode(path)
                raise no_text(f"{name!r} has a name", name, "rename it, or move it out of the installation")
            elif entry.is_symlink():
                links.append(path)
            elif entry.is_dir():
                folders[path] = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                enter(path + "/")
            elif entry.is_file():
                files.append(path)
            else:
                left_out.append(path)

    enter("")
    return Tree(folders, tuple(sorted(files)), tuple(sorted(links)), tuple(sorted(left_out)))


def no_text(what: str, name: bytes, remediation: str) -> UpgradeFailed:
    """The refusal of a name that Python cannot write as UTF-8: it is none, or Python was told otherwise."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return UpgradeFailed(f"{what} that is not valid UTF-8", remediation=remediation)
    return UpgradeFailed(
        f"{what} that is valid UTF-8, but Python was told to take names for {sys.getfilesystemencoding()}",
        remediation="start mcpkeep with PYTHONUTF8=1, or with a locale such as LC_ALL=C.UTF-8",
    )


def copy_file(
    path: str, source: str | Path, target: Path, *, calls: FileCalls = OS_CALLS
) -> BackedUpFile | None:
    """Copy `source` to `target`, which is not there yet, with mode and times; None where it is gone.

    What is answered, and `path` in errors, is of the bytes that were written. A file that changes while it
    is read is read again, up to five times; holes stay holes. Not durable before the next sync.

    Raises:
        UpgradeFailed: it cannot be read, is no file any more, or keeps changing.
        OSError: `target` cannot be written.
    """
    for _ in range(_TRIES):
        try:
            fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise unreadable(path, e) from e
        try:
            copied = _copy(path, fd, target, calls)
        finally:
            os.close(fd)
        if copied is not None:
            return copied
        calls.unlink(target)
    raise UpgradeFailed(
        f"{path!r} changed each of the {_TRIES} times it was read",
        remediation="end the program that keeps writing it, and try again",
    )


def _copy(path: str, fd: int, target: Path, calls: FileCalls) -> BackedUpFile | None:
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        raise UpgradeFailed(f"{path!r} is no longer a file", remediation="try again")
    digest = hashlib.sha256()
    size = 0
    sparse = before.st_blocks * 512 < before.st_size
    out = calls.create(target)
    try:
        for chunk in _chunks(path, fd, before.st_size):
            digest.update(chunk)
            size += len(chunk)
            if sparse and chunk == _ZEROS:
                os.lseek(out, len(chunk), os.SEEK_CUR)
                continue
            rest = memoryview(chunk)
            while rest:
                rest = rest[calls.write(out, rest) :]
        if sparse:
            calls.truncate(out, size)
        after = os.fstat(fd)
        if size != before.st_size or _state(after) != _state(before):
            return None
        mode = stat.S_IMODE(before.st_mode)
        calls.chmod(out, mode)
        calls.utime(out, (before.st_atime_ns, before.st_mtime_ns))
    finally:
        calls.close(out)
    return BackedUpFile(digest.hexdigest(), size, mode)


def hash_file(path: str, source: Path) -> str | None:
    """The SHA-256 of a file as the disk has it; None where there is no file. Raises UpgradeFailed."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise unreadable(path, e) from e
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return None
        # From the disk itself and not from memory: pages that could not be written stay there, seeming well.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        for chunk in _chunks(path, fd, found.st_size):
            digest.update(chunk)
        return digest.hexdigest()
    finally:
        os.close(fd)


def hash_link(target: str) -> BackedUpFile:
    """What is written down of a link to `target`."""
    text = os.fsencode(target)
    return BackedUpFile(hashlib.sha256(text).hexdigest(), len(text), 0o777, target)


def spread(work: Callable[[T], R], items: Iterable[T], *, check: Check, few: int = _FEW) -> list[R]:
    """Do the work for each item, in two threads where they are more than a `few`; the answers in any order.

    The first error ends it, after what other threads are just at; so does `check`.
    """
    todo = list(items)
    rest = iter(todo)
    ended = False

    def run(check: Check) -> list[R]:
        nonlocal ended
        answers: list[R] = []
        try:
            # Taking the next of a list's iterator is one step: no two threads get the same.
            for item in rest:
                if ended:
                    break
                check()
                answers.append(work(item))
        except BaseException:
            ended = True
            raise
        return answers

    if len(todo) <= few:
        return run(check)
    with ThreadPoolExecutor(_THREADS - 1, "mcpkeep-copy") as threads:
        others = [threads.submit(run, lambda: None) for _ in range(_THREADS - 1)]
        answers = run(check)
    for other in others:
        answers += other.result()
    return answers


def unreadable(path: str, error: OSError) -> UpgradeFailed:
    """The refusal of a file or folder that cannot be read."""
    remedy = "make it readable for the user who runs mcpkeep, or move it out of the installation"
    if error.errno == errno.EIO:
        remedy = "the disk errs there: save what you can, and replace the file from elsewhere"
    return UpgradeFailed(f"{path!r} cannot be read: {error.strerror}", remediation=remedy)


def _chunks(path: str, fd: int, size: int) -> Iterable[bytes]:
    """What a file holds; one byte more is asked for than is expected, to see its end in the same call."""
    left = size + 1
    while left > 0:
        wanted = min(_CHUNK, left)
        try:
            chunk = os.read(fd, wanted)
        except OSError as e:
            raise unreadable(path, e) from e
        if chunk:
            yield chunk
        if len(chunk) < wanted:
            return
        left -= len(chunk)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _can_be_written_down(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
