"""Releases: their record on disk, what the installer actor is asked, and what it answers."""

from collections.abc import Callable, Mapping
from datetime import date, datetime

import msgspec

from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.evidence import PostInstallStep

__all__ = [
    "ADOPTED",
    "INSTALL_CAP",
    "UNKNOWN_VERSION",
    "AdoptRelease",
    "CancelInstall",
    "CheckRelease",
    "GetInstallStatus",
    "GetSnapshot",
    "InstallCancelled",
    "InstallRefused",
    "InstallStatus",
    "InstallerMessage",
    "Launch",
    "MakeRelease",
    "PostInstallDone",
    "PruneReleases",
    "Pruned",
    "RebuildRelease",
    "Release",
    "ReleaseChecked",
    "ReleaseMade",
    "RunPostInstall",
    "Snapshot",
    "VenvRecord",
    "free_name",
    "release_id_of",
]

INSTALL_CAP = 4 * 3600.0
"""Seconds for all that uv and pip do for one venv: the real one is 2 GB, which is 140 kB/s."""

ADOPTED = "adopted"
"""The id of the release that records what was there before the first upgrade."""

UNKNOWN_VERSION = "unknown"
"""Of an installation that does not say which one it is."""


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


class VenvRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """complete.json in a venv: written last, so that a venv without one is half made."""

    schema: int
    requirements_sha256: str
    made_at: datetime
    tool: str
    """`uv`, `pip` or `adopted`."""
    snapshot: str
    """What was installed then, as a requirements file."""
    unconstrained: bool = False


def release_id_of(day: date, name: str, taken: Callable[[str], bool]) -> str:
    """A free id such as `2026-01-31-a1b2c3d`, of a commit's first 7 digits or a word such as `local`."""
    return free_name(f"{day.isoformat()}-{name[:7]}", taken)


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """The name, or where it is taken the first free of `name-2`, `name-3`, ..."""
    number, found = 1, name
    while taken(found):
        number += 1
        found = f"{name}-{number}"
    return found


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
    """How many are installed, where the venv was made now."""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    """For people, such as that the old venv's interpreter is gone."""


class ReleaseChecked(msgspec.Struct, frozen=True, tag="install.checked"):
    """Whether a release can be started, as far as can be seen without starting its server."""

    release_id: str
    problems: tuple[str, ...]
    """In words; empty where it can."""


class PostInstallDone(msgspec.Struct, frozen=True, tag="install.post_install_done"):
    """The steps that the requirements call for; optional ones that failed are in it."""

    steps: tuple[PostInstallStep, ...]


class Pruned(msgspec.Struct, frozen=True, tag="install.pruned"):
    """What was removed."""

    releases: tuple[str, ...]
    venvs: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What could not be removed, and why."""


class Snapshot(msgspec.Struct, frozen=True, tag="install.snapshot"):
    """What a venv holds."""

    text: str
    """The installed set as a requirements file."""
    python: str
    """Such as `3.11.7`."""


class InstallStatus(msgspec.Struct, frozen=True, tag="install.status"):
    """What it is at."""

    work: str | None
    """The tag of the question that it works on; None where on none."""
    step: str = ""
    waiting: int = 0
    """How many questions wait for their turn."""


class InstallCancelled(msgspec.Struct, frozen=True, tag="install.cancelled"):
    """What was under way has been taken back, and its asker told so."""

    work: str | None


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


class RebuildRelease(Question[ReleaseMade | InstallRefused], frozen=True, tag="install.rebuild"):
    """Make a release anew by its id, of a backup's code and the versions of its requirements-snapshot.txt.

    What is left of the former one gives way to it, but for its index, and stays where this fails.
    """

    release_id: str
    backup_id: str


class CheckRelease(Question[ReleaseChecked | InstallRefused], frozen=True, tag="install.check"):
    """Look whether a release can be started; refused where there is no such release."""

    release_id: str


class RunPostInstall(Question[PostInstallDone | InstallRefused], frozen=True, tag="install.post_install"):
    """Run what the packages of a release call for; refused only where a step that must succeed fails."""

    release_id: str


class PruneReleases(Question[Pruned | InstallRefused], frozen=True, tag="install.prune"):
    """Remove releases, and venvs that none uses, except these and the current one."""

    keep: tuple[str, ...]


class GetSnapshot(Question[Snapshot | InstallRefused], frozen=True, tag="install.get_snapshot"):
    """Ask the venv of a release, or the live one, what it holds; refused where it does not run."""

    release_id: str | None = None


class GetInstallStatus(Question[InstallStatus], frozen=True, tag="install.get_status"):
    """Answered at once, whatever is under way."""


class CancelInstall(Question[InstallCancelled], frozen=True, tag="install.cancel"):
    """Stop what is under way and take it back; what waits behind it goes on."""


InstallerMessage = (
    AdoptRelease
    | MakeRelease
    | RebuildRelease
    | CheckRelease
    | RunPostInstall
    | PruneReleases
    | GetSnapshot
    | GetInstallStatus
    | CancelInstall
)
