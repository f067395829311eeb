"""What a source's history says about installed files: a path's versions, and its names."""

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.plan import Mode

__all__ = ["Change", "Commit", "History", "Rename", "State"]


_ALONE: Mapping[Mode, frozenset[Mode]] = {
    "100644": frozenset(["100644"]),
    "100755": frozenset(["100755"]),
    "120000": frozenset(["120000"]),
}
_NEVER: frozenset[Mode] = frozenset()


class State(NamedTuple):
    """A file's content and mode."""

    oid: str
    mode: Mode


class Change(NamedTuple):
    """A path's change from a commit's first parent to it."""

    path: str
    """Where it is installed."""
    old: str | None
    """The object id it had; None where it was not there."""
    new: str | None
    """The object id it has; None where it is gone."""
    mode: Mode
    """Of the new one; of the old one where it is gone."""


class Rename(NamedTuple):
    """What git found to be a rename; its two changes are among the commit's."""

    former: str
    path: str


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """One commit, against its first parent; so each version that any tree holds is some commit's change."""

    oid: str
    parent: int
    """The first parent's place in the history; -1 where there is none, or it is beyond a shallow clone."""
    changes: tuple[Change, ...]
    renames: tuple[Rename, ...]


class History(msgspec.Struct, frozen=True, dict=True):
    """The commits that a source can reach, parents before children."""

    commits: tuple[Commit, ...]

    @cached_property
    def versions(self) -> Mapping[str, Mapping[str, frozenset[Mode]]]:
        """By path: the object ids it had under this name, and with which modes."""
        found: dict[str, dict[str, frozenset[Mode]]] = {}
        for commit in self.commits:
            for path, _, new, mode in commit.changes:
                if new is not None:
                    versions = found.setdefault(path, {})
                    modes = versions.get(new)
                    if modes is None:
                        versions[new] = _ALONE[mode]
                    elif mode not in modes:
                        versions[new] = modes | _ALONE[mode]
        return found

    @cached_property
    def _formers(self) -> Mapping[str, tuple[str, ...]]:
        return self._edges(forward=False)

    @cached_property
    def _successors(self) -> Mapping[str, tuple[str, ...]]:
        return self._edges(forward=True)

    def names(self, path: str) -> tuple[str, ...]:
        """The path, and every earlier name of it."""
        return _reach(path, self._formers)

    def successors(self, path: str) -> tuple[str, ...]:
        """What the path was renamed to, and so on; the newest first, without the path itself."""
        return _reach(path, self._successors)[1:]

    def modes(self, path: str, oid: str) -> frozenset[Mode]:
        """With which modes the path, or an earlier name of it, ever had that content; empty where never."""
        versions = self.versions.get(path)
        found = _NEVER if versions is None else versions.get(oid, _NEVER)
        if path in self._formers:
            for name in self.names(path)[1:]:
                found |= self.versions.get(name, {}).get(oid, _NEVER)
        return found

    def agreed(self, standing: Mapping[str, tuple[str, ...]]) -> int | None:
        """The place of the commit that most files agree on: what was installed, as far as can be told.

        `standing` has for each path that counts the object ids that its file stands for, none where there is
        no file. Of equals it is the one with the fewest files that do not stand there, then the oldest: a
        base that is too old shows an upstream change as a change, one that is too new would hide it. None
        where no file agrees with any commit.
        """
        scores: list[tuple[int, int]] = []
        best: int | None = None
        for place, commit in enumerate(self.commits):
            same, missing = scores[commit.parent] if commit.parent >= 0 else (0, 0)
            for path, old, new, _ in commit.changes:
                ids = standing.get(path)
                if ids:
                    same += (new in ids) - (old in ids)
                elif ids is not None:
                    missing += (old is None) - (new is None)
            scores.append((same, missing))
            if same and (best is None or (same, -missing) > (scores[best][0], -scores[best][1])):
                best = place
        return best

    def tree(self, place: int) -> Mapping[str, State]:
        """The installed files of the commit at that place."""
        seen: dict[str, State | None] = {}
        while place >= 0:
            commit = self.commits[place]
            gone: list[str] = []
            for path, _, new, mode in commit.changes:
                if new is None:
                    gone.append(path)
                elif path not in seen:
                    seen[path] = State(new, mode)
            # Where names are exchanged in one commit, a path both goes and comes; it is there then.
            for path in gone:
                seen.setdefault(path, None)
            place = commit.parent
        return {path: state for path, state in seen.items() if state is not None}

    def trunk(self, place: int) -> frozenset[str]:
        """The paths that ever were installed files of that commit or of one before it, by first parents."""
        found: set[str] = set()
        while place >= 0:
            commit = self.commits[place]
            found.update(change.path for change in commit.changes)
            place = commit.parent
        return frozenset(found)

    def _edges(self, *, forward: bool) -> Mapping[str, tuple[str, ...]]:
        edges: dict[str, tuple[str, ...]] = {}
        for commit in reversed(self.commits):
            for former, path in commit.renames:
                start, end = (former, path) if forward else (path, former)
                if end not in edges.get(start, ()):
                    edges[start] = (*edges.get(start, ()), end)
        return edges


def _reach(path: str, edges: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    found = [path]
    for name in found:
        found.extend(end for end in edges.get(name, ()) if end not in found)
    return tuple(found)
