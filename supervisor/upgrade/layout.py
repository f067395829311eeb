"""Where an installation's things are on this machine, as absolute paths."""

import os
from pathlib import Path
from typing import NamedTuple

from mcpkeep.protocol.upgrade.places import BACKUPS, BASES, LOCK, OWN, VENV
from mcpkeep.supervisor.workspace import index_folder

__all__ = ["Layout", "find_installation", "standing"]


class Layout(NamedTuple):
    """The paths of one installation; none needs to exist."""

    workspace: Path
    base: Path
    """The installation's folder itself, links resolved."""

    @property
    def name(self) -> str:
        """By what it is called in the workspace, which its folder's own name differs from behind a link."""
        return next(iter(self.names), self.base.name)

    @property
    def names(self) -> tuple[str, ...]:
        """All that lead to it in the workspace, newest first."""
        return tuple(name for name in BASES if os.path.realpath(self.workspace / name) == str(self.base))

    @property
    def own(self) -> Path:
        return self.base / OWN

    @property
    def releases(self) -> Path:
        return self.own / "releases"

    @property
    def venvs(self) -> Path:
        return self.own / "venvs"

    @property
    def current(self) -> Path:
        """The link to the current release."""
        return self.own / "current"

    @property
    def journals(self) -> Path:
        return self.own / "journal"

    @property
    def baseline(self) -> Path:
        return self.own / "baseline"

    @property
    def history(self) -> Path:
        return self.own / "upgrades.jsonl"

    @property
    def backups(self) -> Path:
        return self.base / BACKUPS

    @property
    def lock(self) -> Path:
        return self.base / LOCK

    @property
    def venv(self) -> Path:
        return self.base / VENV

    @property
    def vector_index(self) -> Path:
        """Where config.json has it, if that can be followed."""
        return Path(index_folder(str(self.base), str(self.workspace)))

    @property
    def reports(self) -> Path:
        return self.base / ".cache"

    def staging(self, session_id: str) -> Path:
        """The candidate's whole workspace."""
        return self.stagings / session_id

    def staged(self, session_id: str) -> Path:
        """The installation in it; always by the newest name."""
        return self.staging(session_id) / BASES[0]

    def candidate(self, session_id: str) -> "Layout":
        """The staging workspace's own."""
        return Layout(self.staging(session_id), self.staged(session_id))

    @property
    def stagings(self) -> Path:
        return self.own / "staging"

    @property
    def changes(self) -> Path:
        return self.own / "changes"

    def change(self, session_id: str) -> Path:
        return self.changes / session_id

    def conflicts(self, session_id: str) -> Path:
        return self.own / "conflicts" / session_id

    def standing(self) -> "Layout":
        """The same where the installation is now."""
        return self._replace(base=standing(self.base))

    def current_release(self) -> str | None:
        """The id of the current release; None before the first upgrade."""
        try:
            return os.path.basename(os.readlink(self.current))
        except OSError:
            return None


def standing(base: Path) -> Path:
    """`base`, or where it is now: the upgrade of an older installation, and its undoing, rename it."""
    if not os.path.lexists(base) and base.name in BASES:
        for name in BASES:
            if os.path.lexists(base.with_name(name)):
                return base.with_name(name)
    return base


def find_installation(workspace: Path) -> Layout | None:
    """The installation of a workspace, links resolved; None where there is none."""
    for name in BASES:
        base = workspace / name
        if base.is_dir():
            return Layout(workspace, Path(os.path.realpath(base)))
    return None
