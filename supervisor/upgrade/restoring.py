"""Whole folders put back from a backup: made beside, swapped in by renames, finished after a crash.

`.mcpkeep/restoring/` holds new/ (what is to stand), old/ (what stood), and intent.json, which is written once
new/ is on the disk: without it nothing live has changed, with it the swap goes forward to its end.
"""

import contextlib
import os
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path

import msgspec

from mcpkeep.protocol.upgrade.backup import BackupManifest, RestoreDone
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.left_out import is_left_out
from mcpkeep.protocol.upgrade.places import OWN, USER_ONLY
from mcpkeep.supervisor.durable import NO_LINKS, OS_CALLS, FileCalls, make_folders, write_durably
from mcpkeep.supervisor.upgrade.copying import Check, Tree, copy_file, hash_file, spread, walk
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.removal import remove_tree

__all__ = ["Restoring"]


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """A live file whose bytes are in new/ too; another stamp than this tells that it was edited since."""

    inode: int
    mtime_ns: int
    size: int


class _Intent(msgspec.Struct, frozen=True):
    """intent.json."""

    session_id: str
    names: tuple[str, ...]
    """Directly below the installation's folder; each is swapped."""
    known: Mapping[str, _Known]


class Restoring:
    """One restore, under the name of its session."""

    def __init__(self, layout: Layout, session_id: str, *, calls: FileCalls = OS_CALLS) -> None:
        self._layout = layout
        self._session_id = session_id
        self._calls = calls
        self._folder = layout.own / "restoring"
        self._new = self._folder / "new"
        self._old = self._folder / "old"
        self._known: dict[str, _Known] = {}

    @classmethod
    def finish(cls, layout: Layout, *, calls: FileCalls = OS_CALLS) -> None:
        """Go forward from wherever a restore was interrupted; forget it where nothing had been changed."""
        folder = layout.own / "restoring"
        try:
            intent = msgspec.json.decode((folder / "intent.json").read_bytes(), type=_Intent)
        except (FileNotFoundError, NotADirectoryError):
            if folder.is_dir():
                remove_tree(folder, calls=calls)
            return
        cls(layout, intent.session_id, calls=calls)._swap(intent)

    def run(
        self, backup: Path, manifest: BackupManifest, *, besides: Collection[str], check: Check
    ) -> RestoreDone:
        """Make every top folder of the backup what it was, `besides` these files, which are the backup's own.

        Live files that the backup does not have, and all under the user's own paths, are carried over; live
        ones that differ are moved to conflicts/<session>/. Before the swap an error or `check` leaves the
        installation as it is; afterwards `finish` completes it.
        """
        try:
            make_folders(self._new, calls=self._calls)
            self._calls.mkdir(self._old)
            restored, carried, names = self._prepare(backup, manifest, besides, check)
            self._calls.sync_tree(self._folder)
            check()
            intent = _Intent(self._session_id, names, self._known)
            write_durably(self._folder / "intent.json", msgspec.json.encode(intent), calls=self._calls)
        except BaseException:
            with contextlib.suppress(OSError):
                # Its intent first: what is half removed must not be taken for what is to stand.
                remove_tree(self._folder / "intent.json", calls=self._calls)
                remove_tree(self._folder, calls=self._calls)
            raise
        kept_aside = self._swap(intent)
        return RestoreDone(backup.name, restored, carried, kept_aside)

    def _prepare(
        self, backup: Path, manifest: BackupManifest, besides: Collection[str], check: Check
    ) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
        base, calls = self._layout.base, self._calls
        saved = walk(backup)
        live = walk(base, content=True)
        present = {*live.files, *live.links}
        back = {
            path
            for path in manifest.files
            if path not in besides and not (_is_users(path) and path in present)
        }
        missing = saved.folders.keys() - live.folders.keys()
        tops = {path.split("/")[0] for path in (*back, *missing)}
        # Where one side has a file and the other a folder, the backup's stands, and the live one goes aside.
        carried = {path for path in present - back - missing if not any(p in back for p in _parents(path))}
        for path, mode in sorted({**live.folders, **saved.folders}.items()):
            if path.split("/")[0] in tops and not any(p in back for p in (path, *_parents(path))):
                calls.mkdir(self._new / path)
                calls.chmod(self._new / path, mode | 0o700)

        def put_back(path: str) -> None:
            entry = manifest.files[path]
            if entry.link is not None:
                calls.symlink(entry.link, self._new / path)
            else:
                copied = copy_file(path, backup / path, self._new / path, calls=calls)
                if copied is None or copied.sha256 != entry.sha256:
                    raise UpgradeFailed(
                        f"{path!r} of backup {backup.name!r} changed while it was read",
                        remediation="verify the backup, and restore another one",
                    )
            if path in present and self._same(path, entry.sha256, entry.link):
                self._know(path)

        spread(put_back, sorted(back), check=check)
        for path in sorted(carried):
            if path.split("/")[0] in tops:
                check()
                self._carry(path, live)
        return len(back), tuple(sorted(carried)), tuple(sorted(tops))

    def _same(self, path: str, sha256: str, link: str | None) -> bool:
        source = self._layout.base / path
        if link is not None:
            return source.is_symlink() and os.readlink(source) == link
        try:
            return not source.is_symlink() and hash_file(path, source) == sha256
        except UpgradeFailed:
            return False

    def _know(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._known[path] = _stamp(self._layout.base / path)

    def _carry(self, path: str, live: Tree) -> None:
        source, target = self._layout.base / path, self._new / path
        self._know(path)
        if path in live.links:
            self._calls.symlink(os.readlink(source), target)
            return
        try:
            # Not a copy: what an editor that has it open writes from now on must not be lost.
            self._calls.link(source, target)
        except FileNotFoundError:
            return
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
            copy_file(path, source, target, calls=self._calls)

    # From here on it goes forward, and may be done again from any point.

    def _swap(self, intent: _Intent) -> dict[str, str]:
        base, calls = self._layout.base, self._calls
        waiting = [name for name in intent.names if os.path.lexists(self._new / name)]
        for name in waiting:
            if os.path.lexists(base / name):
                calls.rename(base / name, _free(self._old / name))
        for folder in (self._old, base):
            calls.fsync_folder(folder)
        for name in waiting:
            calls.rename(self._new / name, base / name)
        for folder in (base, self._new):
            calls.fsync_folder(folder)
        kept_aside = self._sweep(intent)
        calls.unlink(self._folder / "intent.json")
        calls.fsync_folder(self._folder)
        remove_tree(self._folder, calls=calls)
        return kept_aside

    def _sweep(self, intent: _Intent) -> dict[str, str]:
        """Keep aside what stood there and is nowhere else, an edit of the last moment included."""
        kept: dict[str, str] = {}
        conflicts = self._layout.conflicts(intent.session_id)
        touched: set[Path] = set()
        for folder, folders, names in os.walk(self._old):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted((*names, *links)):
                source = Path(folder, name)
                path = source.relative_to(self._old).as_posix()
                if is_left_out(path) or intent.known.get(path) == _stamp(source):
                    continue
                target = _free(conflicts / path)
                if target.parent not in touched:
                    make_folders(target.parent, calls=self._calls)
                    touched.add(target.parent)
                self._calls.rename(source, target)
                kept[path] = f"{OWN}/{target.relative_to(self._layout.own).as_posix()}"
        for made in sorted(touched):
            self._calls.fsync_folder(made)
        return dict(sorted(kept.items()))


def _is_users(path: str) -> bool:
    return any(path == own or path.startswith(own + "/") for own in USER_ONLY)


def _parents(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]


def _stamp(path: Path) -> _Known:
    found = os.lstat(path)
    return _Known(found.st_ino, found.st_mtime_ns, found.st_size)


def _free(path: Path) -> Path:
    if not os.path.lexists(path):
        return path
    return next(p for n in count(2) if not os.path.lexists(p := path.with_name(f"{path.name}~{n}")))
