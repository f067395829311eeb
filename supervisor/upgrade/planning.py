"""One plan in the making: what stands where, where it comes from, what it merges to."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.case import decide, explain, merge_modes, merge_states, needs_merge
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.history import History, State
from mcpkeep.protocol.upgrade.manifest import (
    MANIFEST,
    ManifestUnreadable,
    by_installed_path,
    read_manifest,
)
from mcpkeep.protocol.upgrade.names import part_of
from mcpkeep.protocol.upgrade.origin import Evidence, Local, Origin, find_origin
from mcpkeep.protocol.upgrade.pairing import Obstacles, Pair, pair_up
from mcpkeep.protocol.upgrade.places import CODE_PARTS, CONTENT_PARTS
from mcpkeep.protocol.upgrade.plan import Case, PlannedFile, Version
from mcpkeep.protocol.upgrade.source_tree import SourceTree, enumerate_some
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.git import Blobs
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_tree import Special, blob_id, find_files, read_bytes, read_local
from mcpkeep.supervisor.upgrade.merge import MERGE_LIMIT, merge_bytes
from mcpkeep.supervisor.upgrade.repository import RepositoryFacts, algorithm_of

__all__ = ["Planning"]

# Raised by one whenever merges come to something else.
_FORMAT = 1


class _Seen(NamedTuple):
    """A pair, and all that was found out about it."""

    pair: Pair
    local: Local | None
    upstream: Version | None
    origin: Origin
    standing: State | None
    """What stands there, by the id of the version that it is but for its line endings."""

    @property
    def sides(self) -> tuple[State | None, State | None, State | None]:
        """Local, base, upstream."""
        upstream = None if self.upstream is None else State(self.upstream.oid, self.upstream.mode)
        return self.standing, self.origin.base, upstream


class _Merged(msgspec.Struct):
    """What the last plan of an installation merged, so that the next one need not."""

    merges: dict[str, tuple[str, int] | None] = {}
    """Object id and size of the result, by the ids of base, local and upstream, and the kind of file."""
    sizes: dict[str, int] = {}
    """Of bases, in bytes, by their object ids."""


class Planning:
    """One plan in the making; for one thread."""

    def __init__(
        self,
        tree: SourceTree,
        history: History,
        facts: RepositoryFacts,
        parts: Sequence[str],
        layout: Layout,
        blobs: Blobs,
        cache: Cache,
        check: Callable[[], None],
    ) -> None:
        """Read all that stands in the installed folders `parts`.

        Raises UpgradeFailed where something there cannot be read, or is neither file, folder nor link.
        """
        roots = tuple(part + "/" for part in parts)
        self._layout = layout
        self._history = history
        self._facts = facts
        self._algorithm = algorithm_of(facts.commit)
        self._blobs = blobs
        self._cache = cache
        self._before = self._merged = _Merged()
        self._check = check
        self._upstream = {path: version for path, version in tree.files.items() if path.startswith(roots)}
        problems: list[str] = []
        self._found = [found for part in parts for found in find_files(layout.base, part, problems)]
        baseline_parts = frozenset(part for part in parts if (layout.baseline / part).is_dir())
        self._baseline_paths = {
            found.path
            for part in baseline_parts
            for found in find_files(layout.baseline, part, problems)
            if found.kind != "folder"
        }
        self._baseline: dict[str, Local | None] = {}
        manifest = {path: sum for path, sum in self._read_manifest().items() if path.startswith(roots)}
        known = {path for path in history.versions if path.startswith(roots)}
        known |= self._upstream.keys() | self._baseline_paths | manifest.keys()
        local = self._read_all(known, problems)
        if problems:
            more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise UpgradeFailed(
                f"not everything in the installation can be planned: {'; '.join(problems[:5])}{more}",
                remediation="make it readable for the user who runs mcpkeep, or move it away",
                details={"problems": problems},
            )
        # A part without any file was not deleted file by file: it was never installed.
        present = {part_of(found.path) for found in self._found if found.kind != "folder"}
        standing = {path: local[path].forms if path in local else () for path in known}
        standing = {path: forms for path, forms in standing.items() if part_of(path) in present}
        self.agreed = history.agreed(standing)
        agreed: dict[str, State] = {}
        sure: dict[str, State] = {}
        # An upgrade of one half alone left the other where it was.
        overall = self.agreed
        for half in (CODE_PARTS, CONTENT_PARTS):
            folders = {part.installed for part in half if part.installed in present}
            place = _agreed_half(history, standing, folders, overall)
            self.agreed = place
            if place is not None:
                tree_then = history.tree(place)
                then = {path: state for path, state in tree_then.items() if part_of(path) in folders}
                agreed |= then
                sure |= then if history.commits[place].parent >= 0 else {}
        # What was installed may be older than a history's first commit, if that is shallow or rewritten. Then
        # to take it for the base would hide what upstream changed before it.
        self._trusted = self.agreed is not None and history.commits[self.agreed].parent >= 0
        # A branch of the source may hold what the user wrote and has not given upstream: that is the user's.
        head = next(place for place, commit in enumerate(history.commits) if commit.oid == facts.commit)
        installed = history.trunk(head) | agreed.keys() | self._baseline_paths | manifest.keys()
        self._local = {path: f for path, f in local.items() if path in self._upstream or path in installed}
        self._evidence = Evidence(
            history=history,
            agreed=sure,
            baseline=self._read_baseline,
            baseline_parts=baseline_parts,
            manifest=manifest,
            checksum=self._checksum,
            upstream_checksum=self._upstream_checksum,
        )

    def files(self) -> tuple[PlannedFile, ...]:
        """Every file of the plan, sorted by path."""
        key = f"merges-{_FORMAT}-{hashlib.sha256(bytes(self._layout.base)).hexdigest()[:16]}"
        self._before = self._cache.read(key, _Merged) or _Merged()
        self._merged = _Merged()
        pairs = pair_up(self._local, self._upstream, self._history)
        seen = [self._look(pair) for pair in pairs]
        merges = self._merge_all([one for one in seen if _wants_bytes(one)])
        planned = {file.path: file for one in seen if (file := self._plan(one, merges)) is not None}
        if self._merged != self._before:
            self._cache.write(key, self._merged)
        return tuple(self._unobstructed(planned))

    def warnings(self, files: Sequence[PlannedFile]) -> list[str]:
        """What people should know of the plan as a whole."""
        warnings: list[str] = []
        unknown = [file.path for file in files if file.case is Case.CONFLICT and file.base is None]
        if self._facts.shallow:
            warnings.append(
                "the source's history is shallow, so a file's older versions are not known; "
                f"make a full clone: git -C {self._facts.folder} fetch --unshallow"
            )
        if self.agreed is None and self._local:
            warnings.append(
                "no installed file is of the source's history: it is rewritten, or of another repository"
            )
        if unknown and not self._trusted:
            warnings.append(
                f"{len(unknown)} files differ from upstream's, and what was installed is not known: "
                f"{enumerate_some(unknown)}; each is a conflict"
            )
        return warnings

    def _look(self, pair: Pair) -> _Seen:
        where = pair.former or pair.path
        local = self._local.get(where)
        upstream = self._upstream.get(pair.path)
        names = [where]
        for name in self._history.names(where)[1:]:
            if name not in self._upstream and name not in self._local:
                names.append(name)
        origin = find_origin(where, local, upstream, self._evidence, names=tuple(names))
        standing = None
        if local is not None:
            known = (origin.base and origin.base.oid, upstream and upstream.oid)
            oid = next((oid for oid in known if oid in local.forms), None)
            standing = State(oid or local.version.oid, local.version.mode)
        return _Seen(pair, local, upstream, origin, standing)

    def _plan(self, one: _Seen, merges: Mapping[str, Version | None]) -> PlannedFile | None:
        local, base, upstream = one.sides
        path, former = one.pair
        result = merges.get(path)
        merged = None
        if result is not None:
            same = one.local is not None and result.oid == one.local.version.oid
            merged = State(local.oid if same and local is not None else result.oid, result.mode)
        decided = decide(
            local,
            base,
            upstream,
            installed=one.origin.installed,
            moved=former is not None,
            merged=merged,
        )
        if decided is None:
            return None
        case, state = decided
        return PlannedFile(
            path=path,
            case=case,
            local=one.local and one.local.version,
            base=base and self._version(base, one),
            upstream=one.upstream,
            merged=result or (state and self._version(state, one, as_it_is=True)) if state else None,
            renamed_from=former,
            reason=explain(
                case, local=local, base=base, upstream=upstream, former=former, origin=self._unknown(one)
            ),
        )

    def _unobstructed(self, planned: Mapping[str, PlannedFile]) -> list[PlannedFile]:
        leaving = {path for path, file in planned.items() if file.case is Case.REMOVE}
        leaving |= {file.renamed_from for file in planned.values() if file.renamed_from is not None}
        links = {found.path: found.kind == "link" for found in self._found if found.kind != "folder"}
        folders = {found.path for found in self._found if found.kind == "folder"}
        obstacles = Obstacles(links, folders, leaving)
        files: list[PlannedFile] = []
        for path, file in sorted(planned.items()):
            reason = obstacles.of(path) if path not in links and file.upstream is not None else None
            if reason is not None and file.case is not Case.STAYS_DELETED:
                file = PlannedFile(
                    path,
                    Case.CONFLICT,
                    local=file.local,
                    base=file.base,
                    upstream=file.upstream,
                    renamed_from=file.renamed_from,
                    reason=reason,
                )
            files.append(file)
        return files

    def _unknown(self, one: _Seen) -> str:
        if not self._trusted:
            return "differs from upstream's, and what was installed is not known"
        return "a file of yours stands where upstream has one"

    def _version(self, state: State, one: _Seen, *, as_it_is: bool = False) -> Version:
        """A state with its size; `as_it_is` for one that stands for the local file's own bytes."""
        if one.local is not None and state.oid in one.local.forms:
            if as_it_is:
                return Version(one.local.version.oid, state.mode, one.local.version.size)
            return Version(state.oid, state.mode, one.local.sizes[one.local.forms.index(state.oid)])
        if one.upstream is not None and state.oid == one.upstream.oid:
            return Version(state.oid, state.mode, one.upstream.size)
        for kept in self._baseline.values():
            if kept is not None and state.oid in kept.forms:
                return Version(state.oid, state.mode, kept.sizes[kept.forms.index(state.oid)])
        size = self._before.sizes.get(state.oid)
        self._merged.sizes[state.oid] = self._blobs.size(state.oid) if size is None else size
        return Version(state.oid, state.mode, self._merged.sizes[state.oid])

    def _merge_all(self, seen: Sequence[_Seen]) -> Mapping[str, Version | None]:
        """What each merge comes to, by path; None where the changes overlap."""
        merges: dict[str, Version | None] = {}
        for one in seen:
            local, base, upstream = one.sides
            assert one.local is not None and local is not None and base is not None and upstream is not None
            path = one.pair.path
            key = f"{base.oid} {one.local.version.oid} {upstream.oid} {path.rpartition('.')[2]}"
            if key in self._before.merges:
                result = self._before.merges[key]
            else:
                self._check()
                merged = self._merge(one, base)
                result = None if merged is None else (blob_id(merged, self._algorithm), len(merged))
            self._merged.merges[key] = result
            if result is not None:
                merges[path] = Version(result[0], merge_modes(local, base, upstream), result[1])
        return merges

    def _merge(self, one: _Seen, base: State) -> bytes | None:
        assert one.local is not None and one.upstream is not None
        if max(one.local.version.size, one.upstream.size) > MERGE_LIMIT:
            return None
        where = one.pair.former or one.pair.path
        kept = next(
            (path for path, file in self._baseline.items() if file is not None and base.oid in file.forms),
            None,
        )
        try:
            old = self._blobs.read(base.oid) if kept is None else read_bytes(self._layout.baseline, kept)
            ours = read_bytes(self._layout.base, where)
        except Special as error:
            raise UpgradeFailed(str(error), remediation="make it readable, and plan again") from error
        if blob_id(ours, self._algorithm) != one.local.version.oid:
            raise UpgradeFailed(f"{where!r} was changed while it was planned", remediation="plan again")
        return merge_bytes(old, ours, self._blobs.read(one.upstream.oid), path=one.pair.path)

    def _read_all(self, known: set[str], problems: list[str]) -> dict[str, Local]:
        local: dict[str, Local] = {}
        for found in self._found:
            if found.kind == "folder" or found.path not in known:
                continue
            self._check()
            path = found.path
            try:
                file = read_local(
                    self._layout.base,
                    path,
                    algorithm=self._algorithm,
                    known=partial(self._is_known, path),
                )
            except Special as error:
                problems.append(str(error))
                continue
            if file is not None:
                local[path] = file
        return local

    def _checksum(self, path: str) -> str:
        return hashlib.sha256(read_bytes(self._layout.base, path)).hexdigest()

    def _upstream_checksum(self, path: str) -> str:
        return hashlib.sha256(self._blobs.read(self._upstream[path].oid)).hexdigest()

    def _is_known(self, path: str, oid: str) -> bool:
        return bool(self._history.modes(path, oid))

    def _read_baseline(self, path: str) -> Local | None:
        if path not in self._baseline_paths:
            return None
        if path not in self._baseline:
            try:
                self._baseline[path] = read_local(self._layout.baseline, path, algorithm=self._algorithm)
            except Special as error:
                raise UpgradeFailed(
                    f"the baseline of {error}", remediation="make it readable, and plan again"
                ) from error
        return self._baseline[path]

    def _read_manifest(self) -> Mapping[str, str]:
        try:
            return by_installed_path(read_manifest(read_bytes(self._layout.base, MANIFEST)))
        except (Special, ManifestUnreadable):
            return {}


def _agreed_half(
    history: History, standing: Mapping[str, tuple[str, ...]], folders: set[str], agreed: int | None
) -> int | None:
    """The commit that the files of these folders agree on: `agreed`, unless more of them say another."""
    half = {path: forms for path, forms in standing.items() if part_of(path) in folders}
    own = history.agreed(half)
    if own is None or agreed is None or own == agreed:
        return agreed

    def score(place: int) -> tuple[int, int]:
        tree = history.tree(place)
        same = sum(path in tree and tree[path].oid in forms for path, forms in half.items())
        return same, -sum(path in tree and not forms for path, forms in half.items())

    return own if score(own) > score(agreed) else agreed


def _wants_bytes(one: _Seen) -> bool:
    """A text merge, or upstream's text in a file with other line endings and another mode."""
    local, base, upstream = one.sides
    if needs_merge(local, base, upstream):
        return True
    if local is None or base is None or upstream is None or one.local is None:
        return False
    merged = merge_states(local, base, upstream)
    converted = local.oid != one.local.version.oid
    return converted and merged not in (None, upstream, local) and merged.oid == upstream.oid
