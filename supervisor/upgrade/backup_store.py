"""Backups of an installation: `.backups/YYYY-MM-DD-HHMMSS/`, made in one pass, each with its manifest.

A backup is made under the name `.making-...`, brought to the disk as a whole, and only then given its own
name; one that is removed loses its name first. What has a backup's name is therefore whole.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.backup import (
    BackedUpFile,
    BackupDone,
    BackupInfo,
    BackupManifest,
    RemovedBackups,
    RestoreDone,
    Verification,
)
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders, write_durably
from mcpkeep.supervisor.upgrade.copying import (
    Check,
    Tree,
    copy_file,
    hash_file,
    hash_link,
    no_text,
    spread,
    unreadable,
    walk,
)
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.restoring import Restoring

__all__ = ["MANIFEST", "SNAPSHOT", "BackupFiles"]

MANIFEST = "MANIFEST.json"
SNAPSHOT = "requirements-snapshot.txt"

_SCHEMA = 1
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}-\d{6}(-[1-9]\d*)?")
_MAKING = ".making-"
_REMOVING = ".removing-"


class _Head(msgspec.Struct, frozen=True):
    """What a list needs of a manifest; its files are only counted."""

    schema: int
    timestamp: datetime
    session_id: str
    release: str | None
    files: dict[str, msgspec.Raw]
    total_size: int


class BackupFiles:
    """The backups of one installation. One call at a time; whoever changes anything holds the upgrade lock.

    Each raises UpgradeFailed or OSError where it was refused or failed; `check` is called between files, and
    what it raises ends the work in the same way.
    """

    def __init__(self, layout: Layout, *, calls: FileCalls = OS_CALLS) -> None:
        self._layout = layout
        self._folder = layout.backups
        self._calls = calls

    def create(
        self, session_id: str, *, release: str | None, requirements: str, now: datetime, check: Check
    ) -> BackupDone:
        """Back all content up, on the disk itself when this returns; where it fails nothing is left of it."""
        self._prepare()
        tree = walk(self._layout.base, content=True)
        backup_id = self._free_name(now)
        making = self._folder / (_MAKING + backup_id)
        final = self._folder / backup_id
        try:
            files, left_out = self._fill(making, tree, requirements, check)
            manifest = BackupManifest(
                schema=_SCHEMA,
                path=f"{self._layout.name}/{self._folder.name}/{backup_id}",
                timestamp=now.astimezone(UTC),
                session_id=session_id,
                release=release,
                files=files,
                total_size=sum(file.size for file in files.values()),
                left_out=left_out,
            )
            self._write(making / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            self._calls.sync_tree(making)
            check()
            self._calls.rename(making, final)
            self._calls.fsync_folder(self._folder)
        except BaseException:
            with contextlib.suppress(OSError):
                self._remove(final)
            with contextlib.suppress(OSError):
                remove_tree(making, calls=self._calls)
            raise
        return BackupDone(backup_id, manifest)

    def verify(self, backup_id: str, *, check: Check) -> Verification:
        """Read all of a backup back from the disk. Raises UpgradeFailed as manifest()."""
        manifest = self.manifest(backup_id)
        folder = self._folder / backup_id
        # Only what the walk finds is looked at, so that no link in a damaged backup leads out of it.
        tree = walk(folder)
        found = {*tree.files, *tree.links}
        links = set(tree.links)

        def matches(path: str) -> tuple[str, bool]:
            entry = manifest.files[path]
            if (path in links) != (entry.link is not None):
                return path, False
            if path in links:
                return path, hash_link(os.readlink(folder / path)).sha256 == entry.sha256
            try:
                return path, hash_file(path, folder / path) == entry.sha256
            except UpgradeFailed:
                return path, False

        results = spread(matches, sorted(found & manifest.files.keys()), check=check)
        return Verification(
            backup_id=backup_id,
            files_checked=len(results),
            mismatches=tuple(sorted(path for path, same in results if not same)),
            missing=tuple(sorted(manifest.files.keys() - found)),
            added=tuple(sorted(found - manifest.files.keys() - {MANIFEST})),
        )

    def manifest(self, backup_id: str) -> BackupManifest:
        """A backup's manifest. Raises UpgradeFailed where it cannot be used, or there is no such backup."""
        if not _NAME.fullmatch(backup_id) or not _is_folder(self._folder / backup_id):
            raise UpgradeFailed(
                f"there is no backup {backup_id!r}",
                remediation="choose one of those that `mcpkeep backups` lists",
            )
        refused = "choose another of those that `mcpkeep backups` lists"
        try:
            data = (self._folder / backup_id / MANIFEST).read_bytes()
            manifest = msgspec.json.decode(data, type=BackupManifest)
        except OSError as e:
            raise UpgradeFailed(
                f"the manifest of backup {backup_id!r} cannot be read: {e.strerror}", remediation=refused
            ) from e
        except msgspec.MsgspecError as e:
            raise UpgradeFailed(
                f"the manifest of backup {backup_id!r} is not one: {e}", remediation=refused
            ) from e
        if manifest.schema != _SCHEMA:
            raise UpgradeFailed(
                f"backup {backup_id!r} has schema {manifest.schema}, which is not known here",
                remediation="use the mcpkeep that made it",
            )
        hostile = [path for path in manifest.files if not _is_plain(path)]
        if hostile:
            raise UpgradeFailed(
                f"the manifest of backup {backup_id!r} names {hostile[0]!r}, which leads out of it",
                remediation=f"do not trust this backup; {refused}",
                details={"files": hostile},
            )
        return manifest

    def backups(self) -> tuple[BackupInfo, ...]:
        """All that has a backup's name, newest first; foreign things are passed over. Raises nothing."""
        return tuple(self._info(name) for name in reversed(self._names()))

    def restore(self, backup_id: str, session_id: str, *, check: Check) -> RestoreDone:
        """Put whole folders back; see Restoring. Where it is damaged, refused, and an older one offered."""
        self.recover()
        verification = self.verify(backup_id, check=check)
        if not verification.verified:
            self._refuse(verification, check)
        return Restoring(self._layout, session_id, calls=self._calls).run(
            self._folder / backup_id, self.manifest(backup_id), besides={MANIFEST, SNAPSHOT}, check=check
        )

    def recover(self) -> None:
        """Finish a restore that was interrupted, or forget one that had changed nothing yet.

        What never became a backup goes. Called at start, by whoever holds the upgrade lock.
        """
        Restoring.finish(self._layout, calls=self._calls)
        self._tidy()

    def remove_old(self, keep: int, *, needed: Sequence[str] = ()) -> RemovedBackups:
        """Remove all but the newest `keep`, and those that are needed; what never became a backup, always.

        A folder with a backup's name whose manifest is not mcpkeep's is somebody else's and stays, uncounted;
        so does what cannot be removed.
        """
        self._tidy()
        ours = [info.backup_id for info in self.backups() if info.complete]
        removed: list[str] = []
        for backup_id in ours[max(keep, 0) :]:
            if backup_id in needed:
                continue
            with contextlib.suppress(OSError):
                self._remove(self._folder / backup_id)
                removed.append(backup_id)
        return RemovedBackups(
            removed=tuple(removed), kept=tuple(name for name in ours if name not in removed)
        )

    # Making

    def _prepare(self) -> None:
        self.recover()
        make_folders(self._folder, calls=self._calls)
        ignore = self._folder / ".gitignore"
        if not ignore.exists():
            write_durably(ignore, b"*\n", calls=self._calls)

    def _fill(
        self, making: Path, tree: Tree, requirements: str, check: Check
    ) -> tuple[dict[str, BackedUpFile], tuple[str, ...]]:
        """Copy the tree; what was copied, and what was left out."""
        base, calls = self._layout.base, self._calls
        calls.mkdir(making)
        calls.chmod(making, 0o700)
        # Half of the time for a small file would go into making paths of it.
        folders = {"": making}
        source = f"{base}/"
        for path, mode in tree.folders.items():
            folders[path] = folder = making / path
            calls.mkdir(folder)
            if mode | 0o700 != 0o755:
                calls.chmod(folder, mode | 0o700)
        ours = {MANIFEST, SNAPSHOT}

        def copy(path: str) -> tuple[str, BackedUpFile | None]:
            parent, _, name = path.rpartition("/")
            return path, copy_file(path, source + path, folders[parent] / name, calls=calls)

        copied = spread(copy, (path for path in tree.files if path not in ours), check=check)
        # What was deleted between the walk and its turn is in no list.
        files = {path: file for path, file in copied if file is not None}
        for path in tree.links:
            target = _link_target(path, base)
            calls.symlink(target, making / path)
            files[path] = hash_link(target)
        snapshot = requirements.encode()
        self._write(making / SNAPSHOT, snapshot)
        files[SNAPSHOT] = BackedUpFile(hashlib.sha256(snapshot).hexdigest(), len(snapshot), 0o600)
        hidden = ours & {*tree.files, *tree.links}
        return dict(sorted(files.items())), tuple(sorted({*tree.left_out, *hidden}))

    def _write(self, path: Path, data: bytes) -> None:
        fd = self._calls.create(path)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._calls.write(fd, rest) :]
        finally:
            self._calls.close(fd)

    def _free_name(self, now: datetime) -> str:
        stem = now.astimezone(UTC).strftime("%Y-%m-%d-%H%M%S")
        taken = set(os.listdir(self._folder))
        names = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
        return next(name for name in names if not taken & {name, _MAKING + name})

    # Listing

    def _names(self) -> list[str]:
        """Folders with a backup's name, oldest first."""
        try:
            with os.scandir(self._folder) as found:
                names = [e.name for e in found if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return sorted(names, key=_order)

    def _info(self, name: str) -> BackupInfo:
        try:
            head = msgspec.json.decode((self._folder / name / MANIFEST).read_bytes(), type=_Head)
        except (OSError, msgspec.MsgspecError):
            head = None
        if head is None or head.schema != _SCHEMA:
            return BackupInfo(name, _time_of(name), "", None, 0, 0, complete=False)
        return BackupInfo(
            name,
            head.timestamp,
            head.session_id,
            head.release,
            len(head.files),
            head.total_size,
            complete=True,
        )

    def _refuse(self, bad: Verification, check: Check) -> None:
        names = self._names()
        older = names[: names.index(bad.backup_id)]
        whole = next((name for name in reversed(older) if self._is_whole(name, check)), None)
        damaged = (*bad.mismatches, *bad.missing)
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise UpgradeFailed(
            f"backup {bad.backup_id!r} is damaged: {', '.join(map(repr, damaged[:5]))}{more}",
            remediation=f"restore the next older one, {whole!r}, which was read and is whole"
            if whole
            else "there is no older backup that is whole; replace the files named from elsewhere",
            details={"mismatches": bad.mismatches, "missing": bad.missing, "next_older": whole},
        )

    def _is_whole(self, name: str, check: Check) -> bool:
        try:
            return self.verify(name, check=check).verified
        except UpgradeFailed:
            return False

    # Removing

    def _remove(self, backup: Path) -> None:
        """Take its name first, durably: what is half removed must not be listed."""
        if not os.path.lexists(backup):
            return
        removing = backup.with_name(_REMOVING + backup.name)
        self._calls.rename(backup, removing)
        self._calls.fsync_folder(self._folder)
        remove_tree(removing, calls=self._calls)

    def _tidy(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._folder)):
                if name.startswith((_MAKING, _REMOVING)):
                    with contextlib.suppress(OSError):
                        remove_tree(self._folder / name, calls=self._calls)


def _link_target(path: str, base: Path) -> str:
    try:
        target = os.readlink(base / path)
        target.encode()
    except OSError as e:
        raise unreadable(path, e) from e
    except UnicodeEncodeError as e:
        remediation = "make it anew, or move it out of the installation"
        raise no_text(f"the link {path!r} has a target", os.fsencode(e.object), remediation) from e
    return target


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_plain(path: str) -> bool:
    """Whether a path from a manifest stays below its root."""
    return "\0" not in path and all(name not in ("", ".", "..") for name in path.split("/"))


def _order(name: str) -> tuple[str, int]:
    second, nth = name[:17], name[18:]
    return second, int(nth or "1")


def _time_of(name: str) -> datetime:
    try:
        return datetime.strptime(name[:17], "%Y-%m-%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
