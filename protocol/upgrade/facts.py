"""What phase 0 finds out about the source, the target and the machine."""

from collections.abc import Mapping

import msgspec

__all__ = ["Problem", "SourceFacts", "TargetFacts"]


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
    problems: tuple[Problem, ...] = ()


class TargetFacts(msgspec.Struct, frozen=True):
    """The installation that is to be upgraded."""

    exists: bool
    structure_valid: bool
    bytes_available: int
    bytes_required: int
    command: tuple[str, ...] = ()
    """How its server is started now; empty where that is unknown."""
    current_release: str | None = None
    current_version: str | None = None
    releases: tuple[str, ...] = ()
    """Those that stand, newest first."""
    problems: tuple[Problem, ...] = ()
