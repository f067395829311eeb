"""What the upgrade actor answers beside its work: plans, decisions, backups, reports, status."""

from collections.abc import Mapping

import msgspec

from mcpkeep.actors.upgrade_phases import BACKUP_LIMIT, Context, check
from mcpkeep.actors.upgrade_target import probe
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.backup import BackupRefused, ListBackups, Verification, VerifyBackup
from mcpkeep.protocol.upgrade.decisions import decide_conflicts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeSettings, read_options
from mcpkeep.protocol.upgrade.plan import Case, Decision, Plan
from mcpkeep.protocol.upgrade.probation import Probation
from mcpkeep.protocol.upgrade.report import read_history
from mcpkeep.protocol.upgrade.request import (
    BackupList,
    BackupsVerified,
    Choices,
    MakePlan,
    PlanMade,
    Report,
    ResolveConflicts,
    Resolved,
    UpgradeStatus,
    VerifyBackups,
)

__all__ = ["UpgradeDesk"]

_QUIET = frozenset({Case.UNCHANGED, Case.CONVERGED})


class UpgradeDesk:
    """Answers from what is on disk; remembers the plans it has made, so that they can be decided."""

    def __init__(self, world: UpgradeWorld, settings: UpgradeSettings, recovered: tuple[str, ...]) -> None:
        self._world = world
        self._settings = settings
        self._recovered = recovered
        self._plans: dict[str, Plan] = {}

    async def decisions(self, plan: Plan) -> Mapping[str, Decision]:
        """The decisions on record for a plan, which can be decided from now on."""
        self._plans[plan.plan_id] = plan
        return await self._world.records.decisions(plan.plan_id)

    async def plan(self, asked: MakePlan, step: Progress) -> PlanMade:
        """Phase 0 and the plan of phase 2, with diffs; changes nothing. Raises UpgradeFailed."""
        options = asked.options
        context = Context(self._world, self._settings, "", options, step, self.decisions)
        evidence, source = await check(context)
        step("planning")
        plan = await self._world.contents.plan(source, content=options.content, code=options.code)
        self._plans[plan.plan_id] = plan
        changed = [file.path for file in plan.files if file.case not in _QUIET]
        diffs = await self._world.contents.diffs(plan, changed)
        known = await self.decisions(plan)
        undecided = tuple(file.path for file in plan.conflicts if file.path not in known)
        return PlanMade(plan, diffs, msgspec.to_builtins(evidence), undecided)

    async def resolve(self, asked: ResolveConflicts) -> Resolved:
        """Put decisions on record. Raises UpgradeFailed."""
        plan = self._plans.get(asked.plan_id) or await self._planned_again(asked.plan_id)
        return await self.decide(plan, asked.decisions, by=asked.by)

    async def decide(self, plan: Plan, decisions: Choices, *, by: str) -> Resolved:
        """The same for a plan that is at hand. Raises UpgradeFailed."""
        known = await self._world.records.decisions(plan.plan_id)
        wishes: dict[str, object] = msgspec.to_builtins(decisions)
        made = {**known, **decide_conflicts(plan, wishes, by=by)}
        await self._world.records.save_decisions(plan.plan_id, made)
        undecided = tuple(file.path for file in plan.conflicts if file.path not in made)
        return Resolved(plan.plan_id, tuple(sorted(made)), undecided)

    async def _planned_again(self, plan_id: str) -> Plan:
        """The plan of an open session, made again after a restart: the same inputs give the same plan."""
        for state in await self._world.journals.open():
            if state.begun.kind != "upgrade":
                continue
            options = read_options(state.begun.options)
            source = await self._world.sources.inspect(options.source_path, require_signed=False)
            plan = await self._world.contents.plan(source, content=options.content, code=options.code)
            if plan.plan_id == plan_id:
                return plan
        raise UpgradeFailed(
            f"there is no plan {plan_id!r}, or what it was made of has changed",
            remediation="ask for `plan` again, and decide on what that answers",
        )

    async def backups(self) -> BackupList:
        """The backups, newest first, and the releases, each of them tried."""
        backups = await self._world.backups.ask(ListBackups(), within=BACKUP_LIMIT)
        target = await self._world.targets.inspect()
        found = {release: await probe(self._world, release) for release in target.releases}
        unavailable = {release: problems for release, problems in found.items() if problems}
        return BackupList(backups, target.current_release, target.releases, unavailable)

    async def verify(self, asked: VerifyBackups) -> BackupsVerified:
        """Verify one backup, or each."""
        if asked.backup_id is not None:
            ids: tuple[str, ...] = (asked.backup_id,)
        else:
            listed = await self._world.backups.ask(ListBackups(), within=BACKUP_LIMIT)
            ids = tuple(backup.backup_id for backup in listed)
        found: list[Verification] = []
        unreadable: dict[str, str] = {}
        for backup_id in ids:
            result = await self._world.backups.ask(VerifyBackup(backup_id), within=BACKUP_LIMIT)
            if isinstance(result, BackupRefused):
                unreadable[backup_id] = result.reason
            else:
                found.append(result)
        return BackupsVerified(tuple(found), unreadable)

    async def report(self) -> Report:
        """The newest report, and how upgrades went."""
        latest = await self._world.records.latest()
        history = read_history(await self._world.records.history())
        path, text = latest if latest is not None else (None, "No upgrade has been made here yet.\n")
        return Report(
            text, path, history.upgrades, history.success_rate, history.taken_back, history.given_up
        )

    async def status(
        self, under_way: Mapping[str, object] | None, probation: Probation | None
    ) -> UpgradeStatus:
        """How it stands."""
        target = await self._world.targets.inspect()
        left = None
        if probation is not None and probation.holds(self._world.now()):
            left = {
                "release": probation.release,
                "former": probation.former,
                "seconds_left": round((probation.until - self._world.now()).total_seconds()),
            }
        return UpgradeStatus(
            release=target.current_release,
            version=target.current_version,
            lock=self._world.lock.owner(),
            under_way=under_way,
            probation=left,
            frozen=self._world.live.frozen(),
            recovered=self._recovered,
        )
