"""The staging workspace: a copy of the live installation for the candidate to be built and tried in."""

import errno
import os
import stat
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import CODE_PARTS
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders
from mcpkeep.supervisor.upgrade.copying import Check, spread, unreadable, walk
from mcpkeep.supervisor.upgrade.disk_failure import disk_failure
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.removal import remove_empty, remove_tree

__all__ = ["copy_content", "copy_file_as_it_is", "discard", "fill_staging", "remove_staging", "take_code"]

_CHUNK = 1 << 20
_TRIES = 5
# What says that the kernel cannot copy between these two files by itself.
_NOT_IN_KERNEL = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
}


def fill_staging(
    layout: Layout, session_id: str, *, calls: FileCalls = OS_CALLS, check: Check = lambda: None
) -> None:
    """Make staging/<session>/ anew, durably; what an earlier or interrupted filling left is removed.

    It is whole where it stands: it is filled by another name. Where an older name leads to the installation,
    it does in staging: settings may have it, and a server of that time looks for it alone. Raises
    UpgradeFailed, and nothing is left.
    """
    staging = layout.staging(session_id)
    filling = _filling(layout, session_id)
    with disk_failure("filling the staging workspace"):
        make_folders(staging.parent, calls=calls)
        _remove(layout, session_id, calls)
        try:
            calls.mkdir(filling)
            newest = layout.staged(session_id).name
            copy_content(layout.base, filling / newest, calls=calls, check=check)
            for name in layout.names:
                if name != newest:
                    calls.symlink(newest, filling / name)
            calls.sync_tree(filling)
            calls.rename(filling, staging)
        except BaseException:
            discard(filling, calls)
            raise
        calls.fsync_folder(staging.parent)


def remove_staging(layout: Layout, session_id: str, *, calls: FileCalls = OS_CALLS) -> None:
    """Remove staging/<session>/, whatever is left of it, and staging/ with the last. Raises UpgradeFailed."""
    with disk_failure("removing the staging workspace"):
        _remove(layout, session_id, calls)
        remove_empty(layout.stagings, calls)


def take_code(
    layout: Layout,
    session_id: str,
    folder: Path,
    *,
    calls: FileCalls = OS_CALLS,
    check: Check = lambda: None,
) -> None:
    """Copy the staged mcp_server/ and scripts/ into `folder`, durably, in place of what stands there.

    Raises UpgradeFailed, and nothing of the copies is left.
    """
    taken = [folder / part.installed for part in CODE_PARTS]
    with disk_failure("taking the code out of staging"):
        make_folders(folder, calls=calls)
        for part in taken:
            remove_tree(part, calls=calls)
        try:
            below = tuple(part.installed for part in CODE_PARTS)
            copy_content(layout.staged(session_id), folder, below=below, calls=calls, check=check)
            calls.sync_tree(folder)
        except BaseException:
            for part in taken:
                discard(part, calls)
            raise


def copy_content(
    source: Path,
    target: Path,
    *,
    below: tuple[str, ...] | None = None,
    calls: FileCalls = OS_CALLS,
    check: Check = lambda: None,
) -> None:
    """Copy an installation's content, or of it these folders, with modes and times; links as they are.

    Folders are writable for their owner whatever they were. Not durable by itself. Raises OSError, or
    UpgradeFailed where something cannot be read.
    """
    tree = walk(source, content=True)

    def wanted(path: str) -> bool:
        return below is None or any(path == part or path.startswith(f"{part}/") for part in below)

    if not target.is_dir():
        calls.mkdir(target)
    for path, mode in tree.folders.items():
        if wanted(path):
            calls.mkdir(target / path)
            calls.chmod(target / path, mode & 0o777 | 0o700)

    def copy(path: str) -> None:
        copy_file_as_it_is(path, source / path, target / path, calls=calls)

    spread(copy, filter(wanted, tree.files), check=check)
    for path in filter(wanted, tree.links):
        calls.symlink(os.readlink(source / path), target / path)


def copy_file_as_it_is(path: str, source: Path, target: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Copy `source` to `target`, which is not there yet, with permissions and time; nothing where it is gone.

    The disk's own blocks are shared where the file system can. `path` names it in errors.

    Raises:
        UpgradeFailed: it cannot be read, or changes each time that it is read.
        OSError: `target` cannot be written.
    """
    for _ in range(_TRIES):
        try:
            fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return
            out = calls.create(target)
            try:
                _copy_bytes(path, fd, out, before.st_size, calls)
                calls.chmod(out, stat.S_IMODE(before.st_mode) & 0o777)
                calls.utime(out, (before.st_atime_ns, before.st_mtime_ns))
            finally:
                calls.close(out)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            return
        calls.unlink(target)
    raise UpgradeFailed(
        f"{path!r} changed each of the {_TRIES} times it was read",
        remediation="end the program that keeps writing it, and try again",
    )


def _copy_bytes(path: str, fd: int, out: int, size: int, calls: FileCalls) -> None:
    left = size
    while left > 0:
        try:
            copied = calls.copy(fd, out, left)
        except OSError as error:
            if error.errno not in _NOT_IN_KERNEL:
                raise
            break
        if not copied:
            break
        left -= copied
    while left > 0:
        try:
            chunk = os.read(fd, min(_CHUNK, left))
        except OSError as error:
            raise unreadable(path, error) from error
        if not chunk:
            return
        left -= len(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[calls.write(out, rest) :]


def discard(path: Path, calls: FileCalls) -> None:
    """Remove a tree as far as that goes."""
    try:
        remove_tree(path, calls=calls)
    except OSError:
        return


def _filling(layout: Layout, session_id: str) -> Path:
    return layout.staging(f"{session_id}.filling")


def _remove(layout: Layout, session_id: str, calls: FileCalls) -> None:
    """Under another name: half of a staging workspace must not look like one."""
    staging, gone = layout.staging(session_id), layout.staging(f"{session_id}.gone")
    remove_tree(gone, calls=calls)
    if os.path.lexists(staging):
        calls.rename(staging, gone)
        remove_tree(gone, calls=calls)
    remove_tree(_filling(layout, session_id), calls=calls)
    if staging.parent.is_dir():
        calls.fsync_folder(staging.parent)
