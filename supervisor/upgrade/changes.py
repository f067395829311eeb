"""The live tree's change to another release, in two journalled groups of steps, and their taking back.

    changes/<session>/order.json       prepared                 new/    what is installed, as copies
                      change.json      made                     old/    what stood there, as the old inodes
                      server_state.json                         index/  the old index where no release has it
                                                                spare/  copies of old/, for the way back

At every instant either the journal says which group is under way, or one version stands whole.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder, ChangeRecord, comes_first
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import FIRST, REST, Done, Intent, Undone
from mcpkeep.protocol.upgrade.late_edit import LateEdit, lacking
from mcpkeep.protocol.upgrade.places import BASES, INDEX, OWN, VENV
from mcpkeep.protocol.upgrade.release import Release
from mcpkeep.protocol.upgrade.step import PointLink, PutFile, RenameInstallation, Step, SwapFolder, TakeFile
from mcpkeep.supervisor.durable import NO_LINKS, OS_CALLS, FileCalls, write_durably
from mcpkeep.supervisor.upgrade.change_failure import as_failure, failure
from mcpkeep.supervisor.upgrade.journal import JournalFiles, require_session_id
from mcpkeep.supervisor.upgrade.late_edits import LateEdits, merged_place
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import copy_file, digest, make_missing, require_inside
from mcpkeep.supervisor.upgrade.made_changes import MadeChanges
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.server_state import put_server_state, save_server_state, wake_server_state
from mcpkeep.supervisor.upgrade.spares import is_spare, keep_spares
from mcpkeep.supervisor.upgrade.steps import perform, sync_folders, sync_touched, undo
from mcpkeep.supervisor.upgrade.vector_index import take_back_lent, to_be_lent

__all__ = ["ChangeFiles", "index_place"]

_ORDER = "order.json"


class ChangeFiles:
    """The changes of one installation. For one thread at a time."""

    def __init__(
        self,
        layout: Layout,
        journals: JournalFiles,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        calls: FileCalls = OS_CALLS,
    ) -> None:
        self._layout = layout
        self._journals = journals
        self._calls = calls
        self.edits = LateEdits(layout, calls=calls)
        """What the user saved meanwhile."""
        self.made = MadeChanges(layout, now=now, calls=calls)
        """Those that stand on record."""
        self._followed: set[str] = set()
        """Of the change that is being prepared: what the user makes of these files from now on is an edit."""
        self._installed: dict[str, str | None] = {}
        """Of the same: SHA-256 of each file as it is to be installed."""

    @property
    def layout(self) -> Layout:
        """Where the installation is now."""
        return self._layout.standing()

    def prepare(self, order: ChangeOrder) -> None:
        """Copy the new bytes and give the old files a second name, durably; nothing live is touched.

        Raises UpgradeFailed: as prepare_first().
        """
        self.prepare_first(order)
        self.prepare_rest(order)

    def prepare_first(self, order: ChangeOrder) -> None:
        """What swap_first() needs: the rest may be planned, and prepared, while the server starts.

        Raises UpgradeFailed: a live file is not what the plan saw, a path cannot be replaced by renames,
        the release is not there, or a change of the session stands.
        """
        require_session_id(order.session_id)
        state = self._journals.read(order.session_id)
        if state is not None and state.groups:
            raise UpgradeFailed(
                f"the change of session {order.session_id!r} stands, whole or in part",
                remediation="take it back first",
            )
        self._require_possible(order)
        self._require_paths(order)
        with as_failure("the change cannot be prepared"):
            change = self.layout.change(order.session_id)
            self._followed.clear()
            self._installed.clear()
            remove_tree(change, calls=self._calls)
            make_missing(change, calls=self._calls, synced=False)
            self._prepare_files(order, first=True)
            sync_folders(set(change.parents[:2]), calls=self._calls)
            self._ready_index(order)

    def prepare_rest(self, order: ChangeOrder) -> None:
        """What swap_rest() needs, of an order that may have more files by now; nothing live is touched.

        Raises UpgradeFailed: of those, a live one is not what the plan saw; or the disk failed.
        """
        self._require_paths(order)
        with as_failure("the change cannot be prepared"):
            path = self.layout.change(order.session_id) / _ORDER
            write_durably(path, msgspec.json.encode(order), calls=self._calls)
            self._prepare_files(order, first=False)

    def swap_first(self, order: ChangeOrder) -> None:
        """Save the server's state file; bring the index and scripts/ in. Taken back where it fails."""
        at, change = self.layout, self.layout.change(order.session_id)
        with as_failure("the change cannot be begun"):
            save_server_state(at, change, calls=self._calls)
            index = self._index(order)
            if index is not None and index.staged is not None:
                lent = to_be_lent(at.vector_index, at.base / index.staged)
                index = msgspec.structs.replace(index, lent=lent)
        steps: list[Step] = [] if index is None else [index]
        steps = [*_rename(at), *self._file_steps(order, first=True), *steps]
        self._swap(order, FIRST, steps)

    def swap_rest(self, order: ChangeOrder) -> tuple[LateEdit, ...]:
        """Bring everything else in, and point the links at the release. Taken back where it fails.

        Answers what became of the files that the user saved since they were prepared. Raises CodeEdited
        where that was code.
        """
        at = self.layout
        with as_failure("what was edited meanwhile cannot be followed"):
            paths = [path for path in (*order.removed, *order.written) if not comes_first(path)]
            planned, order = order, self.edits.follow(order, paths)
        for path, seen in order.expected.items():
            if seen != planned.expected.get(path):  # An edit was merged in.
                self._installed.pop(path, None)
        release = self.require_release(order.to_release)
        links = [PointLink(f"{OWN}/current", f"releases/{order.to_release}", _text(at.current))]
        if release.venv:
            links.append(PointLink(VENV, f"{OWN}/venvs/{release.venv}", _text(at.venv)))
        steps: list[Step] = [*self._file_steps(order, first=False), *links]
        self._swap(order, REST, steps)
        return self.edits.told(order.session_id)

    def keep_spares(self, session_id: str) -> None:
        """Copy what the session's change took out, so that going back over it waits for no copying.

        May be called again. Raises UpgradeFailed: the disk failed; the way back is as sure without them.
        """
        record = next((r for r in self.made.records() if r.session_id == session_id), None)
        if record is not None:
            with as_failure("the way back cannot be made faster"):
                keep_spares(self.layout.change(session_id), record.files, calls=self._calls)

    def settle(self, session_id: str) -> None:
        """The former server has ended: remove what its index was lent.

        May be called again while the session's change is the newest.
        """
        state = self._journals.read(session_id)
        intent = None if state is None else state.groups.get(FIRST)
        with as_failure("the old index's files cannot be removed"):
            for step in () if intent is None else intent.steps:
                if isinstance(step, SwapFolder):
                    take_back_lent(self.layout.vector_index, step.lent, calls=self._calls)

    def undo(self, session_id: str) -> tuple[str, ...]:
        """Take back every group of the session that was begun or done; the paths where an edit stayed.

        May be called again, whatever interrupted it.
        """
        state = self._journals.read(session_id)
        if state is None or not state.groups:
            return ()
        with as_failure("the change cannot be taken back; the next start of mcpkeep goes on with it"):
            if self.made.holds(session_id):
                if self.made.records()[-1].session_id != session_id:
                    raise UpgradeFailed(
                        f"a later change stands on that of session {session_id!r}",
                        remediation="roll back with `mcpkeep rollback`",
                    )
                self.made.take_back(session_id)
            stayed: list[str] = []
            for intent in reversed(tuple(state.groups.values())):
                stayed += self._undo(session_id, intent)
        return tuple(sorted(stayed))

    def order(self, session_id: str) -> ChangeOrder | None:
        """What the session prepared last; None where it did not."""
        try:
            data = (self.layout.change(session_id) / _ORDER).read_bytes()
            return msgspec.json.decode(data, type=ChangeOrder)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def discard(self, session_id: str) -> None:
        """Remove what was prepared for a change that was not made; not while any of it stands."""
        state = self._journals.read(session_id)
        if not self.made.holds(session_id) and (state is None or not state.groups):
            with as_failure("what was prepared cannot be removed"):
                remove_tree(self.layout.change(session_id), calls=self._calls)

    def require_release(self, release_id: str, *, backup_id: str | None = None) -> Release:
        """The release, with its venv there. Raises UpgradeFailed; its `details` say `rebuild`."""
        at = self.layout
        try:
            data = (at.releases / release_id / "release.json").read_bytes()
            release = msgspec.json.decode(data, type=Release)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as e:
            raise _gone(f"release {release_id!r} cannot be read: {e}", release_id, backup_id) from e
        if release.venv and not (at.venvs / release.venv).is_dir():
            raise _gone(f"the venv {release.venv!r} of release {release_id!r} is gone", release_id, backup_id)
        return release

    # Before

    def _require_possible(self, order: ChangeOrder) -> None:
        at = self.layout
        release = self.require_release(order.to_release)
        if release.venv and at.venv.exists() and not at.venv.is_symlink():
            raise UpgradeFailed(
                f"{str(at.venv)!r} is a folder, not the link that is to be pointed elsewhere",
                remediation="let mcpkeep adopt the installation first",
            )
        named = at.workspace / at.base.name
        if _rename(at) and (named.is_symlink() or os.path.realpath(named) != str(at.base)):
            raise UpgradeFailed(
                f"{str(at.workspace)!r} has its installation through a link, which cannot be renamed",
                remediation=f"make a link {BASES[0]!r} beside it that leads to the same folder",
            )

    def _require_paths(self, order: ChangeOrder) -> None:
        paths = (*order.written, *order.removed)
        require_inside(self.layout.base, (*paths, INDEX))  # another index was looked at
        if len(set(paths)) < len(paths):
            raise UpgradeFailed(
                "a file is to be written twice, or written and removed", remediation="report this as a fault"
            )

    def _prepare_files(self, order: ChangeOrder, *, first: bool) -> None:
        """Keep all the old files that the order tells of; make ready the new ones of one group."""
        self._keep_old(order)
        written, removed = (
            [path for path in paths if comes_first(path) is first] for paths in (order.written, order.removed)
        )
        self._copy_new(order, written)
        # All are copied before any is synced: what one fsync brings to the disk, the next need not.
        self._sync_prepared(order, written, removed)

    def _keep_old(self, order: ChangeOrder) -> None:
        """Give every old file a second name now: what the user makes of them later is an edit."""
        base, change = self.layout.base, self.layout.change(order.session_id)
        paths = [path for path in (*order.written, *order.removed) if path not in self._followed]
        self._require_unchanged(order, paths)
        there = [path for path in paths if order.expected.get(path) is not None]
        self._make_folders(change / "old", there)
        for path in there:
            # Where there are no hard links, the step itself keeps it.
            try:
                self._calls.link(base / path, change / "old" / path)
            except OSError as e:
                if e.errno not in NO_LINKS:
                    raise
        self._followed.update(paths)

    def _require_unchanged(self, order: ChangeOrder, paths: Sequence[str]) -> None:
        base = self.layout.base
        stale = sorted(path for path in paths if digest(base / path) != order.expected.get(path))
        if stale:
            raise UpgradeFailed(
                f"changed since the plan was made: {', '.join(stale[:5])}" + (", ..." if stale[5:] else ""),
                remediation="make a new plan",
                details={"stale": stale},
            )
        for path in paths:
            if (base / path).is_dir() and not (base / path).is_symlink():
                raise UpgradeFailed(
                    f"{path!r} is a folder where a file is to be", remediation="move it away, and plan anew"
                )

    def _copy_new(self, order: ChangeOrder, written: Sequence[str]) -> None:
        base, change = self.layout.base, self.layout.change(order.session_id)
        self._make_folders(change / "new", written)
        restaged = [path for path in written if path in order.sources and path not in order.spares]
        self._make_folders(base / order.staged_root, restaged)
        for path in restaged:
            self._copy_anew(base / order.sources[path], base / order.staged_root / path, synced=False)
        for path in written:
            new = change / "new" / path
            if path in order.sources:
                self._link_kept(base / order.sources[path], new)
                self._installed[path] = digest(new)
                if path in order.spares and not is_spare(base / order.spares[path], new):
                    self._copy_anew(new, base / order.spares[path])
            else:
                staged = base / order.staged_root / path
                self._installed[path] = copy_file(staged, new, calls=self._calls, synced=False)

    def _sync_prepared(self, order: ChangeOrder, written: Sequence[str], removed: Sequence[str]) -> None:
        base, change = self.layout.base, self.layout.change(order.session_id)
        for path in written:
            new = change / "new" / path
            if path not in order.spares and not new.is_symlink():
                self._calls.fsync_file(new)
                self._calls.fsync_file(base / order.staged_root / path)
        names = [*(f"new/{path}" for path in written), *(f"old/{path}" for path in (*written, *removed))]
        above = {change / folder for name in names for folder in PurePosixPath(name).parents}
        if order.kind == "rollback":
            # Where it is taken back, edits come to lie there; an upgrade's staging is durable already.
            staged = (f"{order.staged_root}/{path}" for path in written if path not in order.spares)
            folders = (folder for name in staged for folder in PurePosixPath(name).parents)
            above |= {base / folder for folder in folders if folder.is_relative_to(OWN)}
        sync_folders(above, calls=self._calls)

    def _copy_anew(self, source: Path, target: Path, *, synced: bool = True) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._calls.unlink(target)
        copy_file(source, target, calls=self._calls, synced=synced)

    def _link_kept(self, source: Path, new: Path) -> None:
        """What an earlier change kept needs no copy: only who has it open still writes into it."""
        try:
            self._calls.link(source, new)
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
            copy_file(source, new, calls=self._calls)

    def _make_folders(self, root: Path, paths: Iterable[str]) -> None:
        for folder in sorted({os.path.dirname(path) for path in paths}):
            make_missing(root / folder, calls=self._calls, synced=False)

    def _ready_index(self, order: ChangeOrder) -> None:
        base, index = self.layout.base, self._index(order)
        if index is None:
            return
        if index.staged is not None and order.kind == "upgrade":
            self._calls.sync_tree(base / index.staged)
        if index.kept is not None:
            remove_tree(base / index.kept, calls=self._calls)

    # Steps

    def _index(self, order: ChangeOrder) -> SwapFolder | None:
        if not order.swap_index:
            return None
        at = self.layout
        if order.kind == "rollback":
            # It comes from where the change that is gone back over put it, and not from staging.
            staged = next((index_place(r) for r in self.made.records() if _leads_from(r, order)), None)
        else:
            root = at.base / order.staged_root
            staged = os.path.relpath(Layout(root.parent, root).vector_index, at.base)
        kept = index_place(order) if at.vector_index.is_dir() else None
        live = os.path.relpath(at.vector_index, at.base)
        return SwapFolder(live, staged if staged and (at.base / staged).is_dir() else None, kept)

    def _file_steps(self, order: ChangeOrder, *, first: bool) -> Iterator[Step]:
        base, change = self.layout.base, f"{OWN}/changes/{order.session_id}"
        # What is removed goes first: a file may become a folder, and a folder a file.
        paths = [*sorted(order.removed), *sorted(order.written)]
        for number, path in enumerate(paths):
            if comes_first(path) is not first:
                continue
            kept = f"{change}/old/{path}"
            if number < len(order.removed):
                yield TakeFile(number, path, kept)
            else:
                creates = order.expected.get(path) is None
                folders = _missing(base, path) if creates else ()
                merged = merged_place(order.session_id, path)
                staged = order.spares.get(path, f"{order.staged_root}/{path}")
                staged = merged if (base / merged).exists() else staged
                yield PutFile(number, path, staged, kept, creates, folders)

    def _swap(self, order: ChangeOrder, group: str, steps: Sequence[Step]) -> None:
        intent = Intent(group, tuple(steps))
        try:
            self._journals.append(order.session_id, intent)
            touched: set[Path] = set()
            for step in steps:
                touched |= perform(step, self._layout.base, calls=self._calls)
            # A name that comes back at a power loss where it was staged is one more of a file in its place.
            left = {(self._layout.base / step.staged).parent for step in steps if isinstance(step, PutFile)}
            sync_touched(touched - left, self._layout.base, calls=self._calls)
            self.edits.give_back(order, intent)
            if group == REST:
                apart = lacking(self.edits.told(order.session_id))
                self.made.write(order, self._installed, given_back=apart)
            elif order.kind == "rollback":
                wake_server_state(self.layout, self.made.state_of(order.to_release), calls=self._calls)
            self._journals.append(order.session_id, Done(group))
        except (OSError, UpgradeFailed) as e:
            failed = failure("the change failed", e)
            try:
                if group == REST:
                    self.made.take_back(order.session_id)
                self._undo(order.session_id, intent)
            except (OSError, UpgradeFailed) as worse:
                raise UpgradeFailed(
                    f"{failed}; and it cannot be taken back: {worse}",
                    remediation=f"{failed.remediation}; the next start of mcpkeep takes it back",
                ) from e
            raise failed from e

    def _undo(self, session_id: str, intent: Intent) -> list[str]:
        touched: set[Path] = set()
        for step in reversed(intent.steps):
            touched |= undo(step, self._layout.base, calls=self._calls)
        sync_touched(touched, self._layout.base, calls=self._calls)
        stayed = self.edits.return_edits(session_id, intent)
        if intent.group == FIRST:
            put_server_state(self.layout, self.layout.change(session_id), calls=self._calls)
        self._journals.append(session_id, Undone(intent.group))
        return stayed


def index_place(change: ChangeOrder | ChangeRecord) -> str:
    """Where the change puts the index that it takes out, relative to the installation."""
    if change.from_release is None or change.from_release == change.to_release:
        return f"{OWN}/changes/{change.session_id}/index"
    return f"{OWN}/releases/{change.from_release}/index"


def _leads_from(record: ChangeRecord, order: ChangeOrder) -> bool:
    return record.swapped_index and record.from_release == order.to_release


def _rename(at: Layout) -> list[RenameInstallation]:
    # Where there is a link by the new name already, both names do.
    if os.path.lexists(at.workspace / BASES[0]):
        return []
    return [RenameInstallation(at.base.name, BASES[0])]


def _missing(base: Path, path: str) -> tuple[str, ...]:
    parts = path.split("/")[:-1]
    above = ("/".join(parts[:n]) for n in range(1, len(parts) + 1))
    return tuple(folder for folder in above if not (base / folder).is_dir())


def _text(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _gone(text: str, release_id: str, backup_id: str | None) -> UpgradeFailed:
    return UpgradeFailed(
        text,
        remediation="it must be rebuilt from the backup and its requirements-snapshot.txt",
        details={"rebuild": True, "release": release_id, "backup_id": backup_id},
    )
