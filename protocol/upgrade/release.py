"""Releases: their record on disk, what the installer actor is asked, and what it answers."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.evidence import PostInstallStep

__all__ = [
    "ADOPTED",
    "AdoptRelease",
    "GetSnapshot",
    "InstallRefused",
    "InstallerMessage",
    "Launch",
    "MakeRelease",
    "PostInstallDone",
    "PruneReleases",
    "Pruned",
    "Release",
    "ReleaseMade",
    "RunPostInstall",
    "Snapshot",
]

ADOPTED = "adopted"
"""The id of the release that records what was there before the first upgrade."""


class Launch(msgspec.Struct, frozen=True):
    """How the server of a release is started, in the workspace."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    """Added to mcpkeep's own environment; holds PYTHONPATH and PYTHONSAFEPATH."""


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """release.json: written last, so that a folder without one is no release."""

    schema: int
    release_id: str
    """Such as `2026-01-31-a1b2c3d`; the folder's name under releases/."""
    version: str
    commit: str | None
    """None where it was adopted."""
    made_at: datetime
    venv: str
    """The folder's name under venvs/."""
    requirements_sha256: str
    server_files: Mapping[str, str]
    """SHA-256 by path under mcp_server/, with `/`."""
    command: tuple[str, ...]
    """Words after the interpreter, such as `-m mcp_server --transport dual`."""


class InstallRefused(msgspec.Struct, frozen=True, tag="install.refused"):
    """It was not done; nothing is left of the attempt."""

    reason: str
    remedy: str
    output: tuple[str, ...] = ()
    """The last lines of the tool that failed."""


class ReleaseMade(msgspec.Struct, frozen=True, tag="install.release_made"):
    """The release stands, durably, and its interpreter was tried."""

    release: Release
    venv_shared: bool
    """Whether it uses the venv that was there."""
    unconstrained: bool = False
    """Whether the old snapshot's versions could not be held."""
    tool: str = ""
    """`uv`, `pip`, or nothing where no package was installed."""
    packages: int = 0
    seconds: float = 0.0


class PostInstallDone(msgspec.Struct, frozen=True, tag="install.post_install_done"):
    """The steps that the requirements call for; optional ones that failed are in it."""

    steps: tuple[PostInstallStep, ...]


class Snapshot(msgspec.Struct, frozen=True, tag="install.snapshot"):
    """What is installed, as `pip freeze` writes it."""

    requirements: str


class Pruned(msgspec.Struct, frozen=True, tag="install.pruned"):
    """What was removed."""

    releases: tuple[str, ...]
    venvs: tuple[str, ...]


class GetSnapshot(Question[Snapshot | InstallRefused], frozen=True, tag="install.get_snapshot"):
    """Ask for the packages of a release's venv."""

    release_id: str


class AdoptRelease(Question[ReleaseMade | InstallRefused], frozen=True, tag="install.adopt"):
    """Make a release of the live code: `adopted` for the first, which takes the live venv over by renaming
    and leaves a link; or of a live mcp_server/ that differs from the current release's.
    """

    session_id: str


class MakeRelease(Question[ReleaseMade | InstallRefused], frozen=True, tag="install.make"):
    """Make a release of a folder that holds mcp_server/ and scripts/, and its venv."""

    session_id: str
    release_id: str
    version: str
    commit: str
    code: str
    """The folder, absolute."""
    previous: str
    """The release whose venv may be shared, and whose snapshot constrains a new one."""


class RunPostInstall(Question[PostInstallDone | InstallRefused], frozen=True, tag="install.post_install"):
    """Run what the packages of a release call for; refused only where a step that must succeed fails."""

    release_id: str


class PruneReleases(Question[Pruned], frozen=True, tag="install.prune"):
    """Remove releases, and venvs that none uses, except these."""

    keep: tuple[str, ...]


InstallerMessage = AdoptRelease | GetSnapshot | MakeRelease | RunPostInstall | PruneReleases
