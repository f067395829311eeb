"""Tells which watched files changed. The kernel's word (watchfiles) only wakes; a comparison decides.

So nothing is missed while folders come and go, and what merely was touched by its reader counts as nothing.
Folders are watched one by one, never the whole tree: those that are ignored cost no kernel watch.
"""

import logging
import os
import re
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

__all__ = ["WatchedFiles"]

RECHECK = 2.0
"""Seconds between comparisons where the kernel cannot watch, such as when its watches are used up."""

QUIET_FACTOR = 10
"""A change is told after this many times the quiet time at the latest, however long files go on changing."""

IGNORED_FOLDERS = frozenset({"venv", ".nox", ".ruff_cache", ".pyright", ".mcpkeep", ".idea", ".vscode"})
"""Besides those that watchfiles ignores, such as .git, __pycache__ and node_modules."""

_log = logging.getLogger("mcpkeep.watch")
Result = TypeVar("Result")


class _Scan(NamedTuple):
    files: dict[str, tuple[int, int, int]]
    """By path what changes when the file does: time, size, inode."""
    folders: frozenset[str]
    """What has to be watched to hear of any change, the coming of a missing path included."""


class WatchedFiles:
    """Files and folders, with all below them, as a `FileChanges`; a path need not exist yet, or any more."""

    def __init__(self, paths: Sequence[str], *, quiet: float, ignore: Collection[str] = ()) -> None:
        """Take absolute paths.

        Args:
            quiet: seconds without a change after which changes are told.
            ignore: absolute paths that do not count, nor anything whose path begins with one.
        """
        self._paths = tuple(paths)
        self._roots = {*paths, *(os.path.realpath(path) for path in paths)}  # macOS tells real paths
        self._quiet_ms = max(1, round(quiet * 1000))
        self._ignore = tuple(ignore)

    async def watch(self) -> AsyncGenerator[tuple[str, ...]]:
        """The paths that changed, each time some did. Ends only by being closed or cancelled."""
        is_ignored = await _in_thread(_read_filter)
        seen = await _in_thread(self._scan, is_ignored)
        told = told_fault = False
        while True:
            notify: RustNotify | None = None
            try:
                notify = await _in_thread(_open, sorted(seen.folders))
                if not told:
                    _log.info("watching %s for changes", ", ".join(self._paths))
                    for path in await _in_thread(self._missing):
                        _log.warning("%s, which is to be watched, does not exist (yet)", path)
                told = True
            except FileNotFoundError:
                pass  # a folder went since the scan; the next one knows
            except (OSError, RuntimeError) as error:
                if not told_fault:
                    _log.warning("cannot watch for file changes (%s); looking every %g s", error, RECHECK)
                told_fault = True
            while True:
                scan = await _in_thread(self._scan, is_ignored)
                changed = _difference(seen.files, scan.files)
                stale = scan.folders != seen.folders
                seen = scan
                if changed:
                    yield changed
                if stale or notify is None:
                    break
                await self._wait(notify)
            if notify is not None:
                notify.close()  # else it ends with its last reference, which a thread may still hold
            else:
                await anyio.sleep(RECHECK)

    async def _wait(self, notify: "RustNotify") -> None:
        stop = threading.Event()
        try:
            while True:
                heard = await _in_thread(notify.watch, QUIET_FACTOR * self._quiet_ms, self._quiet_ms, 0, stop)
                if isinstance(heard, set) and any(self._concerns(path) for _, path in heard):
                    return
        finally:
            stop.set()

    def _concerns(self, path: str) -> bool:
        """Whether it is in or above what is watched, rather than beside it in the same folder."""
        return any(
            path == root or path.startswith(root + os.sep) or root.startswith(path + os.sep)
            for root in self._roots
        )

    def _missing(self) -> list[str]:
        return [path for path in self._paths if not os.path.exists(path)]

    def _scan(self, is_ignored: Callable[[str], bool]) -> _Scan:
        files: dict[str, tuple[int, int, int]] = {}
        folders: set[str] = set()
        for path in self._paths:
            folders.add(_nearest_folder(os.path.dirname(path)))
            if os.path.isdir(path):
                self._scan_folder(path, files, folders, is_ignored)
            else:
                self._note(path, files)
        return _Scan(files, frozenset(folders))

    def _scan_folder(
        self,
        path: str,
        files: dict[str, tuple[int, int, int]],
        folders: set[str],
        is_ignored: Callable[[str], bool],
    ) -> None:
        pending = [path]
        while pending:
            folder = pending.pop()
            folders.add(folder)
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            for entry in entries:
                if is_ignored(entry.name) or entry.path.startswith(self._ignore or ("\0",)):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    self._note(entry.path, files)

    def _note(self, path: str, files: dict[str, tuple[int, int, int]]) -> None:
        try:
            status = os.stat(path)
        except OSError:
            return
        files[path] = (status.st_mtime_ns, status.st_size, status.st_ino)


async def _in_thread(function: Callable[..., Result], *arguments: object) -> Result:
    return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


def _open(folders: list[str]) -> "RustNotify":
    from watchfiles._rust_notify import RustNotify  # documented, though its name is not

    return RustNotify(folders, False, False, 0, False, True)


def _read_filter() -> Callable[[str], bool]:
    from watchfiles import DefaultFilter

    names = IGNORED_FOLDERS.union(DefaultFilter.ignore_dirs)
    patterns = [re.compile(pattern) for pattern in DefaultFilter.ignore_entity_patterns]
    return lambda name: name in names or any(pattern.search(name) for pattern in patterns)


def _nearest_folder(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _difference(
    old: dict[str, tuple[int, int, int]], new: dict[str, tuple[int, int, int]]
) -> tuple[str, ...]:
    def differing() -> Iterable[str]:
        return (path for path in old.keys() | new.keys() if old.get(path) != new.get(path))

    return tuple(sorted(differing()))
