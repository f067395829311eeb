"""What phase 0 finds out about the source, the target and the machine."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.size import show_size

__all__ = ["Problem", "SourceFacts", "SpaceNeeded", "TargetFacts", "space_needed"]


class Problem(msgspec.Struct, frozen=True):
    """One reason not to upgrade."""

    text: str
    remedy: str


class SourceFacts(msgspec.Struct, frozen=True):
    """The source repository; with problems, what could not be found out is empty."""

    path: str
    """Absolute, resolved."""
    commit: str = ""
    """The full object id of HEAD."""
    version: str = ""
    """What a VERSION file or tag names; else the abbreviated commit."""
    clean: bool = False
    signed: bool | None = None
    """None where nobody asked."""
    server_files: Mapping[str, str] = {}
    """Git object id by path under mcp_server/."""
    requirements_sha256: str | None = None
    """As a release's record has it; None where they cannot be read."""
    problems: tuple[Problem, ...] = ()


class TargetFacts(msgspec.Struct, frozen=True):
    """The installation that is to be upgraded."""

    exists: bool
    structure_valid: bool
    bytes_available: int
    content_bytes: int
    """Of all that a backup copies."""
    venv_bytes: int = 0
    """Of its venv: what a new one may take."""
    requirements_sha256: str | None = None
    """Of the live server, as a release's record has it; None where they cannot be read."""
    command: tuple[str, ...] = ()
    """How its server is started now; empty where that is unknown."""
    current_release: str | None = None
    current_version: str | None = None
    releases: tuple[str, ...] = ()
    """Those that stand, newest first."""
    problems: tuple[Problem, ...] = ()


class SpaceNeeded(NamedTuple):
    """The room that an upgrade asks for on the disk, in bytes."""

    total: int
    venv: int
    """Of that, for a new venv."""

    def problem(self, available: int) -> Problem | None:
        """None where that is enough."""
        if available >= self.total:
            return None
        share = f" ({show_size(self.venv)} of it for a new venv)" if self.venv else ""
        return Problem(
            f"not enough disk space: {show_size(self.total)} needed{share}, {show_size(available)} free",
            "free space; older backups go with `[upgrade] keep`",
        )


def space_needed(source: SourceFacts, target: TargetFacts, *, code: bool) -> SpaceNeeded:
    """Twice the content, and a new venv where one is made: not with the content alone (`code` is False), nor
    where the requirements are those of the live server, whose venv is shared then.
    """
    known = source.requirements_sha256 is not None
    shared = known and source.requirements_sha256 == target.requirements_sha256
    venv = target.venv_bytes if code and not shared else 0
    return SpaceNeeded(2 * target.content_bytes + venv, venv)
