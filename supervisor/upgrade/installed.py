"""Compares what the changes installed with what stands there."""

import os
from typing import Literal

from mcpkeep.protocol.upgrade.change import ChangeRecord
from mcpkeep.protocol.upgrade.late_edit import LateEdit, Standing, is_cut_short, made_from_new
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, remove_file
from mcpkeep.supervisor.upgrade.change_failure import as_failure
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.late_edits import late_place
from mcpkeep.supervisor.upgrade.live_files import copy_file, digest, make_missing, read_bytes
from mcpkeep.supervisor.upgrade.steps import sync_folders

__all__ = ["find_damage", "look_after"]


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


def look_after(changes: ChangeFiles, session_id: str, *, calls: FileCalls = OS_CALLS) -> Standing:
    """What stands where the session's change was made; of a file that an edit keeps apart from the new
    version, that version is put into conflicts/<session>/late/, durably. Raises UpgradeFailed.
    """
    record = next((r for r in changes.made.records() if r.session_id == session_id), None)
    edits = {edit.path: edit for edit in changes.edits.told(session_id)}
    if record is None:
        return Standing((), tuple(edits.values()))
    damaged: list[str] = []
    for path, file in sorted(record.files.items()):
        try:
            found = digest(changes.layout.base / path)
            fate = None if found == file.new else _fate(changes, record, path, found)
        except OSError:
            damaged.append(path)
            continue
        if found == file.new:
            continue
        if fate is None:
            damaged.append(path)
        else:
            with as_failure(f"the new version of {path!r} cannot be put aside"):
                aside = _put_aside(changes, session_id, path, calls) if fate == "apart" else None
            edits[path] = LateEdit(path, fate, aside)
    return Standing(tuple(damaged), tuple(edit for _, edit in sorted(edits.items())))


def _fate(
    changes: ChangeFiles, record: ChangeRecord, path: str, digest_now: str | None
) -> Literal["apart", "kept", "newest"] | None:
    """What a file is that has other bytes now than were installed; None where no edit explains them."""
    file, session_id = record.files[path], record.session_id
    if file.new is None:
        return "kept"
    if digest_now in (None, file.old):
        return None
    live, new = changes.layout.base / path, changes.layout.change(session_id) / "new" / path
    if live.is_symlink() or new.is_symlink():
        return "newest" if file.old is None else "apart"
    found, planned = read_bytes(live), read_bytes(new)
    if is_cut_short(found, planned):
        return None
    if file.old is None:
        return "newest"
    former = changes.edits.former(record, path, file.old)
    if former is None or former.is_symlink():
        return "apart"
    return "newest" if made_from_new(found, former=read_bytes(former), new=planned) else "apart"


def _put_aside(changes: ChangeFiles, session_id: str, path: str, calls: FileCalls) -> str:
    at, place = changes.layout, f"{late_place(session_id)}/{path}"
    target = at.base / place
    if not os.path.lexists(target):
        sync_folders(make_missing(target.parent, calls=calls) | {target.parent}, calls=calls)
        temp = at.change(session_id) / "aside.tmp"
        remove_file(temp, calls=calls)
        copy_file(at.change(session_id) / "new" / path, temp, calls=calls)
        calls.rename(temp, target)
        calls.fsync_folder(target.parent)
    return place


_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""
