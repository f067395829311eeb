"""Phases 0 to 2 of an upgrade: check, prepare beside the live installation, merge in staging."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import anyio
import msgspec

from mcpkeep.actors.upgrade_install import ask_installer
from mcpkeep.actors.upgrade_world import LiveServer, Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.backup import BackupDone, BackupRefused, CreateBackup, VerifyBackup
from mcpkeep.protocol.upgrade.evidence import Phase0Evidence, Phase1Evidence, Phase2Evidence, PostInstallStep
from mcpkeep.protocol.upgrade.facts import Problem, SourceFacts, TargetFacts, space_needed
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.options import UpgradeOptions, UpgradeSettings
from mcpkeep.protocol.upgrade.places import CODE_PARTS
from mcpkeep.protocol.upgrade.plan import Case, Choice, Counts, Decision, Plan
from mcpkeep.protocol.upgrade.products import Merged, Prepared
from mcpkeep.protocol.upgrade.release import (
    AdoptRelease,
    GetSnapshot,
    InstallRefused,
    MakeRelease,
    ReleaseMade,
    RunPostInstall,
    Snapshot,
)
from mcpkeep.protocol.upgrade.request import ConflictsUndecided
from mcpkeep.protocol.upgrade.size import show_size

__all__ = [
    "BACKUP_LIMIT",
    "Context",
    "Undecided",
    "check",
    "check_again",
    "merge",
    "move_to",
    "prepare",
    "settle",
]

BACKUP_LIMIT = 3600.0
"""Seconds for a backup of whatever size on whatever disk."""

_OWN_CODE = frozenset({Case.KEEP, Case.MERGE, Case.CONFLICT, Case.STAYS_DELETED})
"""Cases after which the server's code is not upstream's alone."""


class Context(NamedTuple):
    """What every phase works with."""

    world: UpgradeWorld
    settings: UpgradeSettings
    session_id: str
    options: UpgradeOptions
    step: Progress
    decided: Callable[[Plan], Awaitable[Mapping[str, Decision]]]
    """The decisions that are on record for a plan; may leave conflicts out."""


async def check(context: Context) -> tuple[Phase0Evidence, SourceFacts]:
    """Phase 0: find every reason not to upgrade, all of them at once. Changes nothing."""
    world, options = context.world, context.options
    context.step("checking the source")
    source = await world.sources.inspect(options.source_path, require_signed=context.settings.require_signed)
    context.step("checking the installation")
    target = await world.targets.inspect()
    owner = world.lock.owner()
    busy = owner is not None and owner.get("alive") and owner.get("session_id") != context.session_id
    needed = space_needed(source, target, code=options.code)
    problems = [*source.problems, *target.problems]
    if (lack := needed.problem(target.bytes_available)) is not None:
        problems.append(lack)
    if busy and owner is not None:
        problems.append(
            Problem(
                f"the lock is held by session {owner.get('session_id')}, process {owner.get('pid')}, "
                f"since {owner.get('started_at')}",
                "finish that upgrade, or give it up with `mcpkeep upgrade --abort`",
            )
        )
    evidence = _preflight(source, target, needed.total, free=not busy)
    if problems:
        raise UpgradeFailed(
            "; ".join(problem.text for problem in problems),
            remediation="; ".join(dict.fromkeys(problem.remedy for problem in problems)),
            details={"problems": msgspec.to_builtins(problems), "evidence": msgspec.to_builtins(evidence)},
        )
    return evidence, source


async def check_again(context: Context) -> tuple[Phase0Evidence, SourceFacts]:
    """The same, without its steps being told again."""

    def tell_nobody(_step: str) -> None:
        return

    return await check(context._replace(step=tell_nobody))


def _preflight(source: SourceFacts, target: TargetFacts, needed: int, *, free: bool) -> Phase0Evidence:
    return Phase0Evidence(
        source_path=source.path,
        source_version=source.version,
        source_commit=source.commit,
        source_git_clean=source.clean,
        target_exists=target.exists,
        target_structure_valid=target.structure_valid,
        disk_space_available=show_size(target.bytes_available),
        disk_space_required=show_size(needed),
        no_concurrent_workflows=free,
    )


async def prepare(context: Context) -> tuple[Phase1Evidence, Prepared]:
    """Phase 1: backup, verified; the release of what is there; the new release with its venv."""
    world, session_id = context.world, context.session_id
    _, source = await check_again(context)
    context.step("recording the running version as a release")
    adopted = await _install(context, AdoptRelease(session_id))
    former = adopted.release
    if world.live.serving and world.live.release != former.release_id:
        context.step("moving the server to its release")
        await move_to(world.live, former.release_id, progress=context.step)
    backup = await _back_up(context, former.release_id)
    made: ReleaseMade | None = None
    if context.options.code:
        context.step("building the new release")
        folder = world.scratch(session_id)
        await world.sources.export_code(source.path, source.commit, folder)
        made = await _make(context, source, folder, former.release_id)
    steps: tuple[PostInstallStep, ...] = ()
    if made is not None:
        context.step("running post-install steps")
        done = await ask_installer(world.installer, RunPostInstall(made.release.release_id))
        if isinstance(done, InstallRefused):
            raise _not_installed(done)
        steps = done.steps
    manifest = backup.manifest
    evidence = Phase1Evidence(
        backup_path=manifest.path,
        backup_timestamp=manifest.timestamp.isoformat().replace("+00:00", "Z"),
        files_backed_up=len(manifest.files),
        backup_size_bytes=manifest.total_size,
        backup_manifest=f"{manifest.path.rstrip('/')}/MANIFEST.json",
        integrity_verified=True,
        lock_acquired=True,
    )
    return evidence, Prepared(
        source=source,
        former=former,
        release=made.release if made is not None else former,
        backup_id=backup.backup_id,
        venv_shared=made is None or made.venv_shared,
        unconstrained=made is not None and made.unconstrained,
        packages=made.packages if made is not None else 0,
        post_install=steps,
        warnings=(*adopted.warnings, *(made.warnings if made is not None else ())),
    )


async def move_to(live: LiveServer, release: str, *, progress: Progress) -> None:
    """Have clients served from a release of which the files stand there. Raises UpgradeFailed."""
    await live.start(release, progress=progress)
    try:
        await live.promote(freeze=False)
    except UpgradeFailed:
        with anyio.CancelScope(shield=True):
            await live.drop()
        raise


async def _back_up(context: Context, release: str) -> BackupDone:
    world = context.world
    context.step("making the backup")
    snapshot = await ask_installer(world.installer, GetSnapshot(release))
    requirements = snapshot.text if isinstance(snapshot, Snapshot) else ""
    backup = await world.backups.ask(
        CreateBackup(context.session_id, release, requirements), within=BACKUP_LIMIT
    )
    if isinstance(backup, BackupRefused):
        raise UpgradeFailed(f"the backup failed: {backup.reason}", remediation=backup.remedy)
    context.step("verifying the backup")
    found = await world.backups.ask(VerifyBackup(backup.backup_id), within=BACKUP_LIMIT)
    if isinstance(found, BackupRefused):
        raise UpgradeFailed(f"the backup cannot be verified: {found.reason}", remediation=found.remedy)
    if not found.verified:
        damaged = (*found.mismatches, *found.missing)
        raise UpgradeFailed(
            f"the backup does not hold what was written: {', '.join(damaged[:10])}",
            remediation="exclude .backups from virus scanners and sync tools, check the disk, and try again",
            details={"mismatches": found.mismatches, "missing": found.missing},
        )
    return backup


async def _make(context: Context, source: SourceFacts, folder: str, previous: str) -> ReleaseMade:
    day = f"{context.world.now():%Y-%m-%d}"
    release_id = f"{day}-{source.commit[:7]}"
    order = MakeRelease(
        session_id=context.session_id,
        release_id=release_id,
        version=source.version,
        commit=source.commit,
        code=folder,
        previous=previous,
    )
    return await _install(context, order)


async def _install(context: Context, order: AdoptRelease | MakeRelease) -> ReleaseMade:
    made = await ask_installer(context.world.installer, order)
    if isinstance(made, InstallRefused):
        raise _not_installed(made)
    return made


def _not_installed(refused: InstallRefused) -> UpgradeFailed:
    return UpgradeFailed(refused.reason, remediation=refused.remedy, details={"output": refused.output})


class Undecided(UpgradeFailed):
    """Conflicts of the plan have no decision; the phase waits."""

    def __init__(self, plan_id: str, conflicts: Mapping[str, str]) -> None:
        super().__init__(
            f"{len(conflicts)} files were changed by you and by the new version in the same place",
            remediation="decide each with `resolve`: keep, take, or merge",
        )
        self.answer = ConflictsUndecided(plan_id, conflicts)


async def merge(context: Context, prepared: Prepared) -> tuple[Phase2Evidence, Merged]:
    """Phase 2: the three-way plan, carried out in staging. Raises Undecided."""
    world, options, session_id = context.world, context.options, context.session_id
    context.step("planning")
    plan = await world.contents.plan(prepared.source, content=options.content, code=options.code)
    decisions = await settle(context, plan)
    context.step("copying the workspace into staging")
    await world.contents.fill_staging(session_id)
    context.step("merging")
    applied = await world.contents.apply(plan, session_id, decisions)
    release = prepared.release
    if options.code and any(_is_code(file.path) and file.case in _OWN_CODE for file in plan.files):
        context.step("building the release anew, with your edits in it")
        folder = world.scratch(session_id)
        await world.contents.take_code(session_id, folder)
        release = (await _make(context, prepared.source, folder, prepared.former.release_id)).release
    context.step("asking upstream's own script for its dry run")
    differs = await world.contents.compare(plan, prepared.former.release_id)
    staged = await world.records.stage(session_id, prepared.source)
    counts = plan.counts()
    evidence = Phase2Evidence(
        safe_upgrade_executed=True,
        dry_run_preview=_preview(counts),
        actual_upgrade={
            "new_files": applied.new_files,
            "updated_files": applied.updated_files,
            "conflicts_resolved": applied.conflicts_resolved,
            "user_prompts": sum(decision.asked for decision in applied.decisions.values()),
        },
        version_updated=prepared.source.version,
        update_log_appended=True,
    )
    return evidence, Merged(
        plan=plan, applied=applied, release=release, staged_records=staged, differs=differs
    )


async def settle(context: Context, plan: Plan) -> Mapping[str, Decision]:
    """The decision of every conflict. Raises Undecided where one is missing."""
    decided = dict(await context.decided(plan))
    for file in plan.conflicts:
        if file.path not in decided and context.options.on_conflict is not None:
            choice = Choice(context.options.on_conflict)
            decided[file.path] = Decision(choice, f"--on-conflict {choice.value}")
    undecided = tuple(file.path for file in plan.conflicts if file.path not in decided)
    if undecided:
        raise Undecided(plan.plan_id, await context.world.contents.diffs(plan, undecided))
    return decided


def _is_code(path: str) -> bool:
    return any(path.startswith(f"{part.installed}/") for part in CODE_PARTS)


def _preview(counts: Counts) -> Mapping[str, int]:
    return {
        "new_files": counts.new_files,
        "updated_files": counts.updated_files,
        "unchanged_files": counts.unchanged_files,
        "conflicts": counts.conflicts,
        "local_only": counts.local_only,
    }
