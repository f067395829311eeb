"""A power loss, replayed: file calls are recorded, and cut after every one of them.

After a cut, whatever no fsync covered may be lost, whole or in part, in any order: entries of a folder that
was not synced since may be there or not, each by itself, and content that was not synced may be empty, half
or whole. fsync of a file covers its content and not its name. A rename is there or not, as one.
"""

import errno
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mcpkeep.supervisor.exchange import exchange

__all__ = ["Crash", "Recorder", "crashes"]

# Pending entries of which every subset is tried; beyond, all, none, each alone, all but each, each prefix.
_EXHAUSTIVE = 6


@dataclass(frozen=True)
class _Entry:
    """A change of a folder's entries: `gone` is none any more, `name` is one, of `file` or of a folder.

    A folder that has both has changed its name, and all below it goes along.
    """

    folder: Path
    gone: Path | None = None
    name: Path | None = None
    file: int | None = None


@dataclass(frozen=True)
class _Exchange:
    """Two names, of folders or files, changed places, as one."""

    folder: Path
    one: Path
    other: Path

    def swapped(self, path: Path) -> Path:
        for source, target in ((self.one, self.other), (self.other, self.one)):
            if path.is_relative_to(source):
                return target / path.relative_to(source)
        return path


@dataclass(frozen=True)
class _Content:
    file: int
    data: bytes


@dataclass(frozen=True)
class _Synced:
    """The file (by number) or folder (by path) was synced; what was recorded before `since` is covered."""

    what: int | Path
    since: int


@dataclass(frozen=True)
class _Mark:
    value: object


_Record = _Entry | _Exchange | _Content | _Synced | _Mark


@dataclass(frozen=True)
class Crash:
    """What a disk may hold after a cut, and the marks that had been made by then."""

    files: dict[Path, bytes]
    folders: frozenset[Path]
    marks: tuple[object, ...]
    numbers: dict[Path, int] = field(default_factory=dict[Path, int])
    """Names of one file have one number."""
    links: dict[Path, str] = field(default_factory=dict[Path, str])
    """Symbolic links, by their text."""

    def put(self, root: Path) -> None:
        """Make it real below `root`, an empty folder."""
        for folder in sorted(self.folders):
            (root / folder).mkdir()
        first: dict[int, Path] = {}
        for path, data in self.files.items():
            number = self.numbers.get(path, -1)
            if path in self.links:
                os.symlink(self.links[path], root / path)
            elif number in first:
                os.link(root / first[number], root / path)
            else:
                (root / path).write_bytes(data)
                if number >= 0:
                    first[number] = path


@dataclass
class Recorder:
    """FileCalls that really happen below `root` (but for fsync) and are recorded.

    `without` leaves calls out altogether, to see that a replay then fails; without `temp`, files are written
    in place.
    """

    root: Path
    without: frozenset[str] = frozenset()
    log: list[_Record] = field(default_factory=list[_Record])
    calls: list[str] = field(default_factory=list[str])
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _names: dict[Path, int] = field(default_factory=dict[Path, int])
    _texts: dict[int, str] = field(default_factory=dict[int, str])
    _open: dict[int, int] = field(default_factory=dict[int, int])
    _files: Iterator[int] = field(default_factory=itertools.count)

    @property
    def texts(self) -> dict[int, str]:
        """What symbolic links say, by number."""
        return self._texts

    def mark(self, value: object) -> None:
        """Note that something has happened, such as an answer having left."""
        with self._lock:
            self.log.append(_Mark(value))

    def adopt(self) -> None:
        """Take what is below `root` for written and synced."""
        for at, folders, files in os.walk(self.root):
            for name in sorted((*folders, *files)):
                path = Path(at) / name
                if path.is_dir() and not path.is_symlink():
                    self._enter(_Entry(path.parent, name=path), "adopt")
                    continue
                number = next(self._files)
                self._enter(_Entry(path.parent, name=path, file=number), "adopt")
                if path.is_symlink():
                    self._texts[number] = os.readlink(path)
                else:
                    self.log.append(_Content(number, path.read_bytes()))
                    self.log.append(_Synced(number, len(self.log)))
            self.log.append(_Synced(Path(at), len(self.log)))

    def create(self, path: Path) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        if "temp" in self.without:
            path = path.with_name(path.name[1:].rsplit(".", 2)[0])
            flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
        with self._lock:
            fd = os.open(path, flags, 0o600)
            self._open[fd] = next(self._files)
            self._enter(_Entry(path.parent, name=path, file=self._open[fd]), "create")
            return fd

    def open_append(self, path: Path) -> int:
        with self._lock:
            fd = os.open(path, os.O_APPEND | os.O_WRONLY)
            self._open[fd] = self._names[path]
            return fd

    def copy(self, source: int, fd: int, size: int) -> int:
        return self.write(fd, os.read(source, size))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        with self._lock:
            written = os.write(fd, data)
            self.log.append(_Content(self._open[fd], bytes(data[:written])))
            self.calls.append("write")
            return written

    def fsync(self, fd: int) -> None:
        self._sync(self._open[fd], "fsync")

    def fsync_file(self, path: Path) -> None:
        self._sync(self._names[path], "fsync_file")

    def close(self, fd: int) -> None:
        with self._lock:
            del self._open[fd]
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        if self.without & {"rename", "temp"}:
            return
        with self._lock:
            os.rename(source, target)
            self._enter(_Entry(target.parent, source, target, self._names.get(source)), "rename")

    def exchange(self, one: Path, other: Path) -> None:
        if "exchange" in self.without:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with self._lock:
            exchange(one, other)
            self._enter(_Exchange(one.parent, one, other), "exchange")

    def link(self, source: Path, target: Path) -> None:
        if "link" in self.without:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        with self._lock:
            os.link(source, target)
            self._enter(_Entry(target.parent, name=target, file=self._names[source]), "link")

    def symlink(self, text: str, path: Path) -> None:
        with self._lock:
            os.symlink(text, path)
            number = next(self._files)
            self._texts[number] = text
            self._enter(_Entry(path.parent, name=path, file=number), "symlink")

    def unlink(self, path: Path) -> None:
        with self._lock:
            os.unlink(path)
            self._enter(_Entry(path.parent, gone=path), "unlink")

    def mkdir(self, path: Path) -> None:
        with self._lock:
            os.mkdir(path)
            self._enter(_Entry(path.parent, name=path), "mkdir")

    def rmdir(self, path: Path) -> None:
        with self._lock:
            os.rmdir(path)
            self._enter(_Entry(path.parent, gone=path), "rmdir")

    # Modes, times and holes are not modelled.

    def chmod(self, path: Path | int, mode: int) -> None:
        os.chmod(path, mode)

    def utime(self, path: Path | int, ns: tuple[int, int]) -> None:
        os.utime(path, ns=ns)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync_folder(self, path: Path) -> None:
        self._sync(path, "fsync_folder")

    def sync_tree(self, path: Path) -> None:
        for folder, _, names in os.walk(path):
            self._sync(Path(folder), "sync_tree")
            for name in names:
                self._sync(self._names[Path(folder, name)], "sync_tree")

    def _enter(self, entry: _Entry | _Exchange, call: str) -> None:
        self.log.append(entry)
        self.calls.append(call)
        _apply(self._names, set(), entry)

    def _sync(self, what: int | Path, call: str) -> None:
        if call in self.without:
            return
        with self._lock:
            since = len(self.log)
        # Here others go on; what they do meanwhile is not covered.
        with self._lock:
            self.log.append(_Synced(what, since))
            self.calls.append(call)


def crashes(recorder: Recorder, start: int = 0, *, every: int = 1) -> Iterator[Crash]:
    """Every different state a disk may be in after a cut, with the marks made before it.

    Cuts before `start`, a length of the log, are left out; with `every`, all but each such subset of losses.
    """
    turn = itertools.count()
    seen: set[tuple[object, ...]] = set()
    for cut in range(start, len(recorder.log) + 1):
        for crash in _after(recorder, cut, lambda: next(turn) % every == 0):
            key = (
                frozenset(crash.files.items()),
                frozenset(crash.links.items()),
                crash.folders,
                crash.marks,
            )
            if key not in seen:
                seen.add(key)
                yield crash


def _after(recorder: Recorder, cut: int, wanted: Callable[[], bool]) -> Iterator[Crash]:
    log = recorder.log[:cut]
    covered: dict[int | Path, int] = {}
    for record in log:
        if isinstance(record, _Synced):
            covered[record.what] = max(record.since, covered.get(record.what, 0))
    entries = [(n, r) for n, r in enumerate(log) if isinstance(r, _Entry | _Exchange)]
    pending = [n for n, entry in entries if n >= covered.get(entry.folder, 0)]
    contents: dict[int, tuple[bytes, bytes]] = {}
    for n, record in enumerate(log):
        if isinstance(record, _Content):
            safe, loose = contents.get(record.file, (b"", b""))
            if n < covered.get(record.file, 0):
                contents[record.file] = (safe + record.data, loose)
            else:
                contents[record.file] = (safe, loose + record.data)
    marks = tuple(r.value for r in log if isinstance(r, _Mark))
    doubtful = frozenset(pending)
    certain: dict[Path, int] = {}
    certain_folders: set[Path] = {recorder.root}
    first = min(pending, default=cut)
    for _, entry in itertools.takewhile(lambda numbered: numbered[0] < first, entries):
        _apply(certain, certain_folders, entry)
    since = [(n, entry) for n, entry in entries if n >= first]
    for kept in _subsets(pending):
        if not wanted():
            continue
        names, folders = certain.copy(), certain_folders.copy()
        lost: list[tuple[Path, Path] | _Exchange] = []
        for n, entry in since:
            if n in kept or n not in doubtful:
                _apply(names, folders, _as_if_without(lost, entry))
            elif isinstance(entry, _Exchange):
                lost.append(entry)
            elif entry.gone is not None and entry.name is not None and entry.file is None:
                lost.append((entry.name, entry.gone))
        reachable = _reachable(folders, recorder.root)
        numbers = {
            _relative(path, recorder.root): file for path, file in names.items() if path.parent in reachable
        }
        below = frozenset(_relative(folder, recorder.root) for folder in reachable if folder != recorder.root)
        links = {path: recorder.texts[number] for path, number in numbers.items() if number in recorder.texts}
        written = {path: contents.get(number, (b"", b"")) for path, number in numbers.items()}
        for part in (0, 1, 2) if any(loose for _, loose in written.values()) else (0,):
            files = {path: safe + loose[: len(loose) * part // 2] for path, (safe, loose) in written.items()}
            yield Crash(files, below, marks, numbers, links)


@functools.cache
def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root)


def _reachable(folders: set[Path], root: Path) -> set[Path]:
    """Those of the folders, and the root, above which each folder is there."""
    reachable = {root}
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        if folder.parent in reachable:
            reachable.add(folder)
    return reachable


def _as_if_without(
    renames: list[tuple[Path, Path] | _Exchange], entry: _Entry | _Exchange
) -> _Entry | _Exchange:
    """What the entry is where these renames of folders were lost: the same, in the folder by its old name."""

    def put_back(path: Path) -> Path:
        for rename in reversed(renames):
            if isinstance(rename, _Exchange):
                path = path if path in (rename.one, rename.other) else rename.swapped(path)
                continue
            name, gone = rename
            if path.is_relative_to(name) and path != name:
                path = gone / path.relative_to(name)
        return path

    if isinstance(entry, _Exchange):
        return _Exchange(entry.folder, put_back(entry.one), put_back(entry.other))
    return _Entry(
        put_back(entry.folder),
        None if entry.gone is None else put_back(entry.gone),
        None if entry.name is None else put_back(entry.name),
        entry.file,
    )


def _apply(names: dict[Path, int], folders: set[Path], entry: _Entry | _Exchange) -> None:
    if isinstance(entry, _Exchange):
        for path, file in [(entry.swapped(path), names.pop(path)) for path in tuple(names)]:
            names[path] = file
        swapped = {entry.swapped(folder) for folder in folders}
        folders.clear()
        folders |= swapped
        return
    if entry.file is None and entry.gone is not None and entry.gone not in names:
        folders.discard(entry.gone)
        if entry.name is not None:
            for below in [path for path in names if path.is_relative_to(entry.gone)]:
                names[entry.name / below.relative_to(entry.gone)] = names.pop(below)
            for below in [path for path in folders if path.is_relative_to(entry.gone)]:
                folders.discard(below)
                folders.add(entry.name / below.relative_to(entry.gone))
    if entry.file is None and entry.name is not None:
        folders.add(entry.name)
    if entry.gone is not None:
        names.pop(entry.gone, None)
    if entry.name is not None and entry.file is not None:
        names[entry.name] = entry.file


def _subsets(pending: list[int]) -> Iterator[frozenset[int]]:
    if len(pending) <= _EXHAUSTIVE:
        for size in range(len(pending) + 1):
            yield from map(frozenset, itertools.combinations(pending, size))
        return
    everything = frozenset(pending)
    yield from (frozenset(pending[:n]) for n in range(len(pending) + 1))
    yield from (frozenset({n}) for n in pending)
    yield from (everything - {n} for n in pending)
