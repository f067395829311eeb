"""What the upgrade actor is asked, by the tool, the terminal, a workflow or a signal, and what it answers.

These messages also travel over the control socket.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from mcpkeep.protocol.question import Question
from mcpkeep.protocol.upgrade.backup import BackupInfo, Verification
from mcpkeep.protocol.upgrade.options import UpgradeOptions
from mcpkeep.protocol.upgrade.plan import Choice, Plan

__all__ = [
    "LEAVING",
    "LOOKS",
    "AbortUpgrade",
    "Aborted",
    "BackupList",
    "BackupsVerified",
    "CancelWork",
    "Choices",
    "ConflictsUndecided",
    "GetBackups",
    "GetReport",
    "GetUpgradeStatus",
    "MakePlan",
    "MergedText",
    "PhaseMeasured",
    "PlanMade",
    "Refused",
    "Report",
    "ResolveConflicts",
    "Resolved",
    "RollBack",
    "RolledBack",
    "RunPhase",
    "RunUpgrade",
    "ServerCrashed",
    "UndoPhases",
    "Undone",
    "UpToDate",
    "UpgradeAnswer",
    "UpgradeDone",
    "UpgradeFault",
    "UpgradeMessage",
    "UpgradeStatus",
    "VerifyBackups",
]

Choices = Mapping[str, "Choice | MergedText"]
"""By path or glob."""


class MergedText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conflict's decision by hand."""

    merge: str
    """The whole file."""


class Refused(msgspec.Struct, frozen=True, tag="upgrade.refused"):
    """Not done, and nothing changed."""

    reason: str
    remedy: str
    details: Mapping[str, object] = {}


LEAVING = Refused("mcpkeep is leaving", "make the same call again when it runs; nothing is lost")
"""What was under way is taken back, or made whole, and can go on at the next start."""


class UpgradeFault(msgspec.Struct, frozen=True, tag="upgrade.fault"):
    """Begun and failed; `state` says what stands now."""

    reason: str
    remedy: str
    phase: int | None
    state: Literal["unchanged", "rolled_back", "rollback_failed"]
    details: Mapping[str, object] = {}


class PlanMade(msgspec.Struct, frozen=True, tag="upgrade.plan_made"):
    """The whole plan, with diffs by path."""

    plan: Plan
    diffs: Mapping[str, str]
    preflight: Mapping[str, object]
    """Phase 0's evidence."""
    undecided: tuple[str, ...]
    """The conflicts that no decision is on record for."""


class ConflictsUndecided(msgspec.Struct, frozen=True, tag="upgrade.conflicts_undecided"):
    """Nothing was changed (or the phase waits): these files need decisions."""

    plan_id: str
    conflicts: Mapping[str, str]
    """The diff by path."""


class Resolved(msgspec.Struct, frozen=True, tag="upgrade.resolved"):
    """The decisions are on record for that plan."""

    plan_id: str
    decided: tuple[str, ...]
    undecided: tuple[str, ...]


class UpgradeDone(msgspec.Struct, frozen=True, tag="upgrade.done"):
    """The new version serves."""

    session_id: str
    from_version: str
    to_version: str
    from_release: str
    to_release: str
    summary: str
    """Path of the report, relative to the workspace."""
    evidence: Mapping[str, Mapping[str, object]]
    """By phase."""
    seconds: Mapping[str, float]
    """By phase."""
    late: tuple[str, ...] = ()
    """Files that the user saved meanwhile: a sentence for each, with the place of the side not standing."""


class UpToDate(msgspec.Struct, frozen=True, tag="upgrade.up_to_date"):
    """Nothing was done: every file is as the source would have it, or as the user wants it."""

    version: str
    commit: str
    release: str | None
    """None before the first upgrade."""
    plan_id: str


class RolledBack(msgspec.Struct, frozen=True, tag="upgrade.rolled_back"):
    """The former version serves again."""

    session_id: str
    from_release: str | None
    to_release: str
    restored: int
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    kept_aside: Mapping[str, str]
    seconds: float
    summary: str
    undone: tuple[str, ...] = ()
    """The sessions whose changes were taken back, oldest first."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing, in words."""


class Aborted(msgspec.Struct, frozen=True, tag="upgrade.aborted"):
    """Nothing is under way any more, lock and staging are released."""

    sessions: tuple[str, ...]


class PhaseMeasured(msgspec.Struct, frozen=True, tag="upgrade.phase_measured"):
    """The evidence of one phase."""

    evidence: Mapping[str, object]


class Undone(msgspec.Struct, frozen=True, tag="upgrade.undone"):
    """What the phases did is undone."""

    to_phase: int


class BackupList(msgspec.Struct, frozen=True, tag="upgrade.backup_list"):
    """The backups, newest first, and the releases one can go back to."""

    backups: tuple[BackupInfo, ...]
    current: str | None
    releases: tuple[str, ...]
    unavailable: Mapping[str, tuple[str, ...]] = {}
    """What keeps a release from being started, in words, by its id; going back there rebuilds it first."""


class BackupsVerified(msgspec.Struct, frozen=True, tag="upgrade.backups_verified"):
    """One verification for each that was asked for."""

    verifications: tuple[Verification, ...]
    unreadable: Mapping[str, str] = {}
    """Why, by id."""


class Report(msgspec.Struct, frozen=True, tag="upgrade.report"):
    """The newest report, and how upgrades went so far."""

    text: str
    path: str | None
    upgrades: int
    success_rate: float | None
    """Of those that were carried out, the share that worked, from 0 to 1; None before the first."""
    taken_back: int = 0
    """Of them, those that worked and that somebody went back over."""
    given_up: int = 0
    """Beside them: ended before anything live had changed."""


class UpgradeStatus(msgspec.Struct, frozen=True, tag="upgrade.status"):
    """How it stands."""

    release: str | None
    version: str | None
    lock: Mapping[str, object] | None
    """Who holds it; None: idle."""
    under_way: Mapping[str, object] | None
    """Session, phase and step."""
    probation: Mapping[str, object] | None
    """The release, and the seconds that are left."""
    frozen: str | None
    recovered: tuple[str, ...] = ()
    """What the start found interrupted, and did."""


UpgradeAnswer = (
    Refused
    | UpgradeFault
    | PlanMade
    | ConflictsUndecided
    | Resolved
    | UpgradeDone
    | UpToDate
    | RolledBack
    | Aborted
    | PhaseMeasured
    | Undone
    | BackupList
    | BackupsVerified
    | Report
    | UpgradeStatus
)


class MakePlan(Question[PlanMade | Refused], frozen=True, tag="upgrade.plan"):
    """Check and plan; change nothing."""

    options: UpgradeOptions


class ResolveConflicts(Question[Resolved | Refused], frozen=True, tag="upgrade.resolve"):
    """Decide conflicts of a plan, each by path or glob."""

    plan_id: str
    decisions: Choices
    by: str


class RunUpgrade(
    Question[UpgradeDone | UpToDate | ConflictsUndecided | Refused | UpgradeFault],
    frozen=True,
    tag="upgrade.run",
):
    """All six phases, one after the other."""

    options: UpgradeOptions
    by: str
    plan_id: str | None = None
    """Go on only if the plan is still this one."""
    decisions: Choices = msgspec.field(default_factory=dict[str, "Choice | MergedText"])
    """Of its conflicts, by the user."""


class RunPhase(
    Question[PhaseMeasured | ConflictsUndecided | Refused | UpgradeFault], frozen=True, tag="upgrade.phase"
):
    """One phase of a session that an agent leads."""

    session_id: str
    phase: int
    options: Mapping[str, object]


class UndoPhases(Question[Undone | Refused | UpgradeFault], frozen=True, tag="upgrade.undo"):
    """Undo what the session's phases from `to_phase` on did."""

    session_id: str
    to_phase: int


class RollBack(Question[RolledBack | Refused | UpgradeFault | Aborted], frozen=True, tag="upgrade.roll_back"):
    """Go back to a release or backup; an upgrade that is under way and not committed is aborted instead."""

    to: str | None
    by: str


class AbortUpgrade(Question[Aborted | Refused], frozen=True, tag="upgrade.abort"):
    """Give up whatever is open and not committed."""

    by: str
    session_id: str | None = None


class CancelWork(Question[Aborted], frozen=True, tag="upgrade.cancel_work"):
    """End what is under way for the session, and wait until it is taken back; the session stays open."""

    session_id: str


class ServerCrashed(msgspec.Struct, frozen=True, tag="upgrade.server_crashed"):
    """The server ended unasked."""

    release: str | None
    how: str


class GetBackups(Question[BackupList], frozen=True, tag="upgrade.get_backups"):
    """List the backups."""


class VerifyBackups(Question[BackupsVerified | Refused], frozen=True, tag="upgrade.verify_backups"):
    """Read all of one backup, or of every one, against its manifest."""

    backup_id: str | None = None


class GetReport(Question[Report], frozen=True, tag="upgrade.get_report"):
    """The newest report."""


class GetUpgradeStatus(Question[UpgradeStatus], frozen=True, tag="upgrade.get_status"):
    """How it stands."""


UpgradeMessage = (
    MakePlan
    | ResolveConflicts
    | RunUpgrade
    | RunPhase
    | UndoPhases
    | RollBack
    | AbortUpgrade
    | GetBackups
    | VerifyBackups
    | GetReport
    | GetUpgradeStatus
    | CancelWork
    | ServerCrashed
)

LOOKS = (MakePlan, GetBackups, VerifyBackups, GetReport, GetUpgradeStatus)
"""The questions that change nothing, and are answered beside whatever is under way."""
