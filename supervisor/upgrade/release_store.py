"""Releases on disk: their code copied, their record written last, the links that point at them."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import Release
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders, write_durably
from mcpkeep.supervisor.upgrade.code_files import walk_code
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.workspace import takes_transport

__all__ = [
    "RECORD",
    "SCHEMA",
    "copy_code",
    "make_own_folder",
    "new_release",
    "point_link",
    "read_release",
    "release_ids",
    "remove_release",
    "server_words",
    "write_release",
]

RECORD = "release.json"
SCHEMA = 1
_SERVER = "mcp_server"
_CHUNK = 1 << 20


def read_release(layout: Layout, release_id: str) -> Release:
    """The record of a release.

    Raises:
        UpgradeFailed: there is none of that id, or its record cannot be read; names those there are.
    """
    try:
        if "/" in release_id or release_id in ("", ".", ".."):
            raise FileNotFoundError
        return msgspec.json.decode((layout.releases / release_id / RECORD).read_bytes(), type=Release)
    except (OSError, msgspec.DecodeError) as error:
        why = (
            "there is no release" if isinstance(error, FileNotFoundError) else "unreadable record of release"
        )
        there = ", ".join(release_ids(layout)) or "none"
        raise UpgradeFailed(f"{why} {release_id!r}", remediation=f"take one of: {there}") from error


def release_ids(layout: Layout) -> tuple[str, ...]:
    """The complete releases, by id."""
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.releases) as entries:
        return tuple(sorted(e.name for e in entries if os.path.isfile(os.path.join(e.path, RECORD))))
    return ()


def server_words(code: Path) -> tuple[str, ...]:
    """The words after the interpreter that start the server in `code`, which holds mcp_server/."""
    source = (code / _SERVER / "__main__.py").read_text(encoding="utf-8", errors="replace")
    return ("-m", _SERVER, *(("--transport", "dual") if takes_transport(source) else ()))


def copy_code(
    source: Path, target: Path, *, calls: FileCalls = OS_CALLS, stopper: Stopper | None = None
) -> dict[str, str]:
    """Copy a folder of code, durably but for the entry of `target` itself; modes and mtimes are kept.

    Returns:
        SHA-256 by path below.

    Raises:
        UpgradeFailed: something in it is neither file, folder nor a link that stays inside.
        OSError: it failed; `target` may hold some of it.
    """
    digests: dict[str, str] = {}
    folders = [target]
    make_folders(target, calls=calls)
    for path, link in walk_code(source, stopper):
        here, there = source / path, target / path
        missing = [folder for folder in there.parents if folder not in folders and target in folder.parents]
        for folder in reversed(missing):
            calls.mkdir(folder)
            folders.append(folder)
        if link:
            text = os.readlink(here)
            inside = os.path.normpath(os.path.join(os.path.dirname(path), text))
            if os.path.isabs(text) or inside.split(os.sep)[0] == os.pardir:
                raise UpgradeFailed(
                    f"{str(here)!r} is a link to {text!r}, outside its folder",
                    remediation="put the file itself there",
                )
            calls.symlink(text, there)
            digests[path] = hashlib.sha256(os.fsencode(text)).hexdigest()
        else:
            digests[path] = _copy_file(here, there, calls)
    for folder in reversed(folders):
        calls.fsync_folder(folder)
    return digests


def write_release(layout: Layout, release: Release, *, calls: FileCalls = OS_CALLS) -> None:
    """Link its venv and write its record: now it is a release, durably."""
    folder = layout.releases / release.release_id
    calls.symlink(f"../../venvs/{release.venv}", folder / "venv")
    calls.fsync_folder(folder)
    calls.fsync_folder(layout.releases)
    write_durably(folder / RECORD, msgspec.json.encode(release), calls=calls)


def remove_release(layout: Layout, release_id: str, *, calls: FileCalls = OS_CALLS) -> None:
    """Remove it, its record first, so that half of one is none; nothing where it is not there."""
    folder = layout.releases / release_id
    with contextlib.suppress(FileNotFoundError):
        calls.unlink(folder / RECORD)
        calls.fsync_folder(folder)
    remove_tree(folder)
    with contextlib.suppress(FileNotFoundError):
        calls.fsync_folder(layout.releases)


def point_link(link: Path, target: str, *, temp: Path, calls: FileCalls = OS_CALLS) -> None:
    """Have `link` point at `target`, by atomic replacement and durably; `temp` is on the same device."""
    with contextlib.suppress(OSError):
        if os.readlink(link) == target:
            calls.fsync_folder(link.parent)
            return
    with contextlib.suppress(FileNotFoundError):
        calls.unlink(temp)
    calls.symlink(target, temp)
    calls.rename(temp, link)
    calls.fsync_folder(link.parent)


def make_own_folder(layout: Layout, *, calls: FileCalls = OS_CALLS) -> None:
    """Make mcpkeep's own folder, which ignores itself in git."""
    make_folders(layout.own, calls=calls)
    if not (layout.own / ".gitignore").exists():
        write_durably(layout.own / ".gitignore", b"*\n", calls=calls)


def new_release(
    release_id: str,
    *,
    version: str,
    commit: str | None,
    venv: str,
    requirements_sha256: str,
    server_files: Mapping[str, str],
    command: tuple[str, ...],
) -> Release:
    """The record of a release that is made now."""
    return Release(
        schema=SCHEMA,
        release_id=release_id,
        version=version,
        commit=commit,
        made_at=datetime.now(UTC),
        venv=venv,
        requirements_sha256=requirements_sha256,
        server_files=server_files,
        command=command,
    )


def _copy_file(source: Path, target: Path, calls: FileCalls) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as file:
        fd = calls.create(target)
        try:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[calls.write(fd, rest) :]
            found = os.fstat(file.fileno())
            os.fchmod(fd, found.st_mode & (stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO))
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
            calls.fsync(fd)
        finally:
            calls.close(fd)
    return digest.hexdigest()
