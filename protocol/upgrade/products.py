"""What the phases hand on to each other, by way of the journal."""

from datetime import datetime

import msgspec

from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.evidence import PostInstallStep
from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.late_edit import LateEdit
from mcpkeep.protocol.upgrade.plan import Applied, Plan
from mcpkeep.protocol.upgrade.proof import Proof, SmokeResult, ToolDiff
from mcpkeep.protocol.upgrade.release import UNKNOWN_VERSION, Release

__all__ = ["Closed", "Merged", "Prepared", "Switched", "Validated", "former_version"]


class Prepared(msgspec.Struct, frozen=True):
    """Phase 1: the way back and the new release."""

    source: SourceFacts
    former: Release
    release: Release
    """The same as `former` where the server's code stays."""
    backup_id: str
    venv_shared: bool
    unconstrained: bool
    packages: int
    post_install: tuple[PostInstallStep, ...]
    warnings: tuple[str, ...] = ()
    """What the adoption and the new release brought up, in words."""


class Merged(msgspec.Struct, frozen=True):
    """Phase 2: what is staged."""

    plan: Plan
    applied: Applied
    release: Release
    """Another than the prepared one where the user's edits are part of the server's code."""
    staged_records: tuple[str, ...] = ()
    """Further paths that become live with the commit."""
    differs: tuple[str, ...] = ()
    """What upstream's own script would have done otherwise."""


def former_version(prepared: Prepared, merged: Merged) -> str:
    """What stood there before: as its release says, or as the source calls what most files agree on."""
    known = prepared.former.version
    return merged.plan.installed_version or known if known == UNKNOWN_VERSION else known


class Switched(msgspec.Struct, frozen=True):
    """Phase 3: what was proven and committed."""

    proof: Proof
    tool_diff: ToolDiff
    order: ChangeOrder
    at: datetime
    late: tuple[LateEdit, ...] = ()
    """Files that the user saved during the commit."""


class Validated(msgspec.Struct, frozen=True):
    """Phase 4: what the live server showed."""

    smoke: tuple[SmokeResult, ...]
    facts: tuple[str, ...]
    path: str
    """Of the validation report, relative to the workspace."""


class Closed(msgspec.Struct, frozen=True):
    """Phase 5: the record."""

    summary: str
    """Path of the report, relative to the workspace."""
    warnings: tuple[str, ...]
    late: tuple[LateEdit, ...] = ()
    """Files that the user saved from the commit on."""
