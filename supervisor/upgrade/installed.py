"""Compares what the changes installed with what stands there."""

import os
from collections.abc import Mapping

from mcpkeep.protocol.upgrade.backup import Verification
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.live_files import digest

__all__ = ["find_damage", "verify_installed"]


def find_damage(changes: ChangeFiles) -> tuple[str, ...]:
    """Paths of installed files that no user's edit explains, sorted.

    Such are files that cannot be read, those that are empty and were not, and those that are missing
    together with their whole folder. A single missing file is the user's deletion.
    """
    base = changes.layout.base
    installed: dict[str, str | None] = {}
    for record in changes.made.records():
        installed.update((path, file.new) for path, file in record.files.items())
    release = changes.layout.current_release()
    if release is not None:
        server = changes.require_release(release).server_files
        installed = {**{f"mcp_server/{path}": sha for path, sha in server.items()}, **installed}
    damaged: list[str] = []
    for path, sha in installed.items():
        if sha is None:
            continue
        try:
            found = digest(base / path)
        except OSError:
            damaged.append(path)
            continue
        gone = found is None and not os.path.lexists((base / path).parent)
        emptied = found == _EMPTY and sha != _EMPTY
        if gone or emptied:
            damaged.append(path)
    return tuple(sorted(damaged))


def verify_installed(changes: ChangeFiles, release_id: str) -> Verification:
    """Compare every file of the last change that led to the release; none where there was no such change."""
    files: Mapping[str, str | None] = {}
    for record in changes.made.records():
        if record.to_release == release_id:
            files = {path: file.new for path, file in record.files.items()}
    mismatches: list[str] = []
    missing: list[str] = []
    added: list[str] = []
    for path, sha in sorted(files.items()):
        try:
            found = digest(changes.layout.base / path)
        except OSError:
            mismatches.append(path)
            continue
        if found == sha:
            continue
        (missing if found is None else added if sha is None else mismatches).append(path)
    return Verification(release_id, len(files), tuple(mismatches), tuple(missing), tuple(added))


_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""
