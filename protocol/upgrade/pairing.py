"""Which local file belongs to which upstream one: by name or rename; what is in an addition's way."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from mcpkeep.protocol.upgrade.history import History
from mcpkeep.protocol.upgrade.names import fold

__all__ = ["Obstacles", "Pair", "pair_up"]


class Pair(NamedTuple):
    """One file of the plan, by its name upstream."""

    path: str
    former: str | None = None
    """Where it stands locally, if that is not `path`."""


def pair_up(local: Collection[str], upstream: Collection[str], history: History) -> tuple[Pair, ...]:
    """Pair all paths that stand on either side, sorted.

    A file is paired by a rename only where its name is gone upstream, and the new one is not there yet.
    """
    formers: dict[str, str] = {}
    for path in sorted(path for path in local if path not in upstream):
        for name in history.successors(path):
            if name in upstream and name not in local and name not in formers:
                formers[name] = path
                break
    moved = set(formers.values())
    paths = sorted((set(local) | set(upstream)) - moved)
    return tuple(Pair(path, formers.get(path)) for path in paths)


class Obstacles:
    """What stands in the live tree, the user's own included, where a file is to be added."""

    def __init__(self, files: Mapping[str, bool], folders: Collection[str], leaving: Collection[str]) -> None:
        """`files` has for each whether it is a link; those in `leaving` go away in the same upgrade."""
        self._files = files
        self._folders = folders
        self._leaving = leaving
        self._folded = {fold(path): path for path in files if path not in leaving}

    def of(self, path: str) -> str | None:
        """Why a file cannot be added at that path; None where it can."""
        for folder in _parents(path):
            if folder in self._files and folder not in self._leaving:
                kind = "a link" if self._files[folder] else "a file"
                return f"{kind} of yours stands at {folder!r}, where upstream has a folder"
        if path in self._folders and any(
            file.startswith(path + "/") and file not in self._leaving for file in self._files
        ):
            return "a folder of yours stands where upstream has a file"
        other = self._folded.get(fold(path))
        if other is not None and other != path:
            return f"its name differs from your {other!r} in nothing that every file system tells apart"
        return None


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
