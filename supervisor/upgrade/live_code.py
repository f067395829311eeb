"""Whether the live mcp_server/ is still what the current release was made of; cheap enough for every start.

Paths are strings, and hashing and JSON are imported only where stamps differ: this runs before the child is
spawned.
"""

import os
import time
from contextlib import suppress

__all__ = ["code_changed"]

_SETTLED = 2_000_000_000
"""Nanoseconds. A file that was changed this recently may be changed again without its stamp telling."""


def code_changed(base: str) -> bool:
    """Whether the installation's mcp_server/ differs from what its current release was made of.

    False where there is no current release, or no live server to make another of. A few hundred microseconds
    where nothing was touched since the last time: then nothing is read but one file of stamps.
    """
    own = os.path.join(base, ".mcpkeep")
    live = os.path.join(base, "mcp_server")
    try:
        current = os.path.basename(os.readlink(os.path.join(own, "current")))
    except OSError:
        return False
    if not os.path.isfile(os.path.join(live, "__main__.py")):
        return False
    stamps, newest = _stamps(live)
    state = "\n".join((current, *stamps)).encode("utf-8", "surrogateescape")
    cache = os.path.join(own, "cache", "live-code")
    try:
        with open(cache, "rb") as file:
            if file.read() == state:
                return False
    except OSError:
        pass
    if _differs(os.path.join(own, "releases", current, "release.json"), live):
        return True
    if newest + _SETTLED < time.time_ns():
        _write(cache, state)
    return False


def _stamps(live: str) -> tuple[list[str], int]:
    """A line for each file below, sorted, and when the newest was changed."""
    lines: list[str] = []
    newest = 0
    queue = [""]
    while queue:
        inside = queue.pop()
        # A folder that goes away meanwhile makes the stamps differ.
        with suppress(OSError), os.scandir(os.path.join(live, inside)) as entries:
            for entry in entries:
                if entry.name == "__pycache__":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    queue.append(f"{inside}{entry.name}/")
                    continue
                found = entry.stat(follow_symlinks=False)
                newest = max(newest, found.st_ctime_ns)
                lines.append(
                    f"{found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_size}"
                    f" {inside}{entry.name}"
                )
    lines.sort()
    return lines, newest


def _differs(record: str, live: str) -> bool:
    import json
    from pathlib import Path

    from mcpkeep.supervisor.upgrade.code_files import code_digests

    try:
        with open(record, "rb") as file:
            files: object = json.load(file)["server_files"]
        return files != code_digests(Path(live))
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _write(cache: str, state: bytes) -> None:
    temp = f"{cache}.{os.getpid()}"
    with suppress(OSError):
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        with open(temp, "wb") as file:
            file.write(state)
        os.replace(temp, cache)
