"""The server's vector index: carried into staging, held against the content, dated so that no edit is missed.

Its metadata.json is written last by the build, and holds `build_time` (local time without a zone) and
`files_mtimes`, by path relative to the installation's folder. The server's own check for changes first asks
whether any file is newer than `build_time`, then compares each mtime exactly: an early `build_time` is safe.
"""

import os
from collections.abc import Iterator, Set
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from shutil import Error, copytree, rmtree
from typing import NamedTuple, cast

import msgspec

from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, write_durably
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = [
    "METADATA",
    "REBUILD_FLAG",
    "Lack",
    "carry_index",
    "drop_index",
    "filled_at",
    "is_current",
    "lack_of",
    "stamp_build_time",
    "unindexed",
]

METADATA = "metadata.json"

REBUILD_FLAG = "standards/.rebuild_index"
"""A server that finds this at its start brings its index up to the content before it answers."""

_STANDARDS = "standards"
_COPIES = 3
"""Attempts to copy an index that its server is changing; a change takes it seconds every now and then."""


class Lack(NamedTuple):
    """What an index does not know of the content, by path relative to the installation's folder."""

    changed: tuple[str, ...]
    """Edited or added since the build."""
    removed: tuple[str, ...]
    """Gone; the real server never takes these out of an index, so that it goes on finding them."""

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


def drop_index(index: Path) -> None:
    """Remove it, whatever it is."""
    if index.is_dir() and not index.is_symlink():
        rmtree(index)
    else:
        index.unlink(missing_ok=True)


def carry_index(live: Layout, staged: Layout) -> bool:
    """Copy the index of the installation `live` into the installation `staged`, with its mtimes.

    A copy, not links: the server writes some of its files in place. False where there is none that is
    finished, or where it kept changing while it was copied; nothing is left in staging then.
    """
    source, target = live.vector_index, staged.vector_index
    drop_index(target)
    for _ in range(_COPIES):
        before = _listing(source)
        if METADATA not in before:
            return False
        with suppress(Error, FileNotFoundError):
            copytree(source, target, symlinks=True)
            if _listing(source) == before:
                return True
        drop_index(target)
    return False


def lack_of(at: Layout) -> Lack | None:
    """What the installation's index does not know of its content; None where there is no finished index."""
    base, metadata = at.base, _metadata(at.vector_index)
    if metadata is None:
        return None
    known = _known_mtimes(metadata)
    if known is None:
        # An older format: only its date tells.
        built = _build_time(metadata)
        found = dict(_sources(base, {_STANDARDS}))
        late = [path for path, mtime in found.items() if built is None or mtime > built]
        return Lack(tuple(sorted(late)), ())
    found = dict(_sources(base, {_STANDARDS, *(path.partition("/")[0] for path in known)}))
    changed = [path for path, mtime in found.items() if known.get(path) != mtime]
    return Lack(tuple(sorted(changed)), tuple(sorted(known.keys() - found.keys())))


def is_current(at: Layout) -> bool:
    """Whether the installation's index is finished and covers its content as it is now."""
    lack = lack_of(at)
    return lack is not None and not lack


def filled_at(base: Path) -> datetime:
    """A moment before the first of the installation's standards was copied to where it is; local time.

    Whatever was edited at its origin later than that may be missing from an index that is built here.
    """
    times = [os.lstat(base / path).st_ctime for path, _ in _sources(base, {_STANDARDS})]
    oldest = min(times, default=os.stat(base).st_ctime)
    # Clocks of file systems tick in steps of up to a second.
    return datetime.fromtimestamp(oldest - 1)


def unindexed(base: Path, staged: Path, *, besides: Set[str | None]) -> tuple[str, ...]:
    """The standards of `base` that are not as they were copied to `staged`, but for the paths `besides`."""
    live, copied = (dict(_sources(root, {_STANDARDS})) for root in (base, staged))
    return tuple(
        path
        for path in sorted(live.keys() | copied.keys())
        if path not in besides and live.get(path) != copied.get(path)
    )


def stamp_build_time(at: Layout, moment: datetime, *, calls: FileCalls = OS_CALLS) -> None:
    """Set `build_time` of the installation's index to the moment, which is local time; durably.

    Not before the newest standard where the date is all that it knows of them: it would pass for stale, and
    be built again. Nothing is done where there is no metadata that can be read.
    """
    base, index = at.base, at.vector_index
    metadata = _metadata(index)
    if metadata is None:
        return
    if _known_mtimes(metadata) is None:
        newest = max((mtime for _, mtime in _sources(base, {_STANDARDS})), default=0.0)
        moment = max(moment, datetime.fromtimestamp(newest) + timedelta(microseconds=1))
    former = _build_text(metadata)
    zoned = former is not None and former.tzinfo is not None
    metadata["build_time"] = (moment.astimezone(former.tzinfo) if zoned and former else moment).isoformat()
    path = index / METADATA
    mode = path.stat().st_mode
    write_durably(path, msgspec.json.format(msgspec.json.encode(metadata), indent=2), calls=calls)
    path.chmod(mode & 0o777)


def _listing(index: Path) -> dict[str, tuple[int, int]]:
    """Size and mtime by relative path."""
    found: dict[str, tuple[int, int]] = {}
    for folder, _, files in os.walk(index):
        for name in files:
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):
                stat = os.lstat(path)
                found[os.path.relpath(path, index)] = (stat.st_size, stat.st_mtime_ns)
    return found


def _sources(base: Path, folders: set[str]) -> Iterator[tuple[str, float]]:
    """The files that an index covers, with their mtimes as the server reads them."""
    for name in folders:
        for folder, _, files in os.walk(base / name):
            for file in files:
                if file.endswith(".md"):
                    path = os.path.join(folder, file)
                    with suppress(FileNotFoundError):
                        yield os.path.relpath(path, base), os.stat(path).st_mtime


def _metadata(index: Path) -> dict[str, object] | None:
    try:
        found: object = msgspec.json.decode((index / METADATA).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return cast("dict[str, object]", found) if isinstance(found, dict) else None


def _known_mtimes(metadata: dict[str, object]) -> dict[str, object] | None:
    found = metadata.get("files_mtimes")
    return cast("dict[str, object]", found) if isinstance(found, dict) else None


def _build_text(metadata: dict[str, object]) -> datetime | None:
    text = metadata.get("build_time")
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _build_time(metadata: dict[str, object]) -> float | None:
    built = _build_text(metadata)
    return None if built is None else built.timestamp()
