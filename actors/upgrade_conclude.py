"""Phase 5 of an upgrade: the records, the baseline, what is not needed any more, the lock."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime

import msgspec

from mcpkeep.actors.upgrade_install import ask_installer
from mcpkeep.actors.upgrade_phases import BACKUP_LIMIT, Context
from mcpkeep.actors.upgrade_world import UpgradeWorld
from mcpkeep.protocol.upgrade.backup import RemoveOldBackups
from mcpkeep.protocol.upgrade.evidence import Phase5Evidence
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.late_edit import lacking, tell_edits
from mcpkeep.protocol.upgrade.places import BACKUPS, BASES, RECORDS
from mcpkeep.protocol.upgrade.products import Closed, Merged, Prepared, Switched, Validated
from mcpkeep.protocol.upgrade.record_texts import log_entry, summary_section
from mcpkeep.protocol.upgrade.release import InstallRefused, PruneReleases
from mcpkeep.protocol.upgrade.report import history_line, report_upgrade

__all__ = ["conclude", "needed_releases", "prune"]


async def conclude(
    context: Context,
    prepared: Prepared,
    merged: Merged,
    switched: Switched,
    validated: Validated,
    *,
    seconds: Mapping[int, float],
    started_at: datetime,
    by: str,
    strict: bool,
) -> tuple[Phase5Evidence, Closed]:
    """Phase 5: close the upgrade. What it cannot do is told; the new version stays in any case.

    Raises UpgradeFailed only where `strict`, since somebody can try again: a record could not be written.
    """
    world, warnings = context.world, list[str]()

    @contextmanager
    def told(what: str, *, needed: bool = False) -> Generator[None]:
        try:
            yield
        except UpgradeFailed as failed:
            if needed and strict:
                raise
            warnings.append(f"{what}: {failed}; {failed.remediation}")

    context.step("renewing the baseline")
    late = switched.late
    with told("the baseline was not renewed"):
        standing = await world.changes.look_after(context.session_id)
        late = standing.edits
        warnings += [f"{path} is not as it was installed" for path in standing.damaged]
        for line in tell_edits(late) if strict else ():
            context.step(line)
        behind = (*standing.damaged, *lacking(late))
        await world.contents.renew_baseline(merged.plan, context.session_id, lacking=behind)
    context.step("removing what is not needed any more")
    removed = await world.backups.ask(
        RemoveOldBackups(context.settings.keep, needed=(prepared.backup_id,)), within=BACKUP_LIMIT
    )
    warnings += await prune(world)
    context.step("writing the report")
    report = report_upgrade(
        context.session_id,
        by=by,
        prepared=prepared,
        merged=merged,
        switched=switched,
        validated=validated,
        seconds=seconds,
        started_at=started_at,
        ended_at=world.now(),
        backup_path=f"{BASES[0]}/{BACKUPS}/{prepared.backup_id}",
        late=late,
        warnings=warnings,
    )
    applied = merged.applied
    entry = log_entry(
        report.new.version,
        report.ended_at,
        new=applied.new_files,
        updated=applied.updated_files,
        resolved=applied.conflicts_resolved,
    )
    recorded, summary = False, ""
    with told("the records were not written", needed=True):
        await world.records.write_records(log_entry=entry, summary=summary_section(report))
        recorded = True
    if context.settings.git_commit:
        committed = await _commit(context, merged, warnings)
        report = msgspec.structs.replace(report, git_committed=committed, warnings=tuple(warnings))
    with told("the report was not written", needed=True):
        summary = await world.records.write_summary(f"{report.ended_at:%Y-%m-%d}", report.to_markdown())
    with told("the history was not written"):
        await world.records.log_line(history_line(report))
    with told("no spare copies were made, so that a rollback makes its own"):  # Last: they take room.
        await world.changes.keep_spares(context.session_id)
    with told("the lock's file stays", needed=True):
        await world.lock.release()
    evidence = Phase5Evidence(
        lock_released=world.lock.owner() is None,
        old_backups_archived=len(removed.removed),
        upgrade_summary=summary,
        installation_summary_updated=recorded,
        update_log_appended=recorded,
        git_changes_committed=report.git_committed,
    )
    return evidence, Closed(summary=summary, warnings=tuple(warnings), late=late)


async def _commit(context: Context, merged: Merged, warnings: list[str]) -> bool:
    world, applied = context.world, merged.applied
    paths = [f"{BASES[0]}/{path}" for path in (*applied.written, *applied.removed, *RECORDS)]
    try:
        return await world.records.commit(paths, f"Upgrade prAxIs OS to {merged.plan.source_version}")
    except UpgradeFailed as failed:
        warnings.append(f"the git commit failed: {failed}")
        return False


async def needed_releases(world: UpgradeWorld) -> tuple[str, ...]:
    """The current release, the former, and those of the newest changes: none of them is ever removed."""
    target = await world.targets.inspect()
    records = (await world.changes.records())[-2:]
    found = [target.current_release, world.live.release, world.live.frozen()]
    found += [release for record in records for release in (record.from_release, record.to_release)]
    return tuple(dict.fromkeys(release for release in found if release is not None))


async def prune(world: UpgradeWorld) -> tuple[str, ...]:
    """Remove releases, venvs and changes that nobody goes back to; what could not be, in words."""
    needed = await needed_releases(world)
    pruned = await ask_installer(world.installer, PruneReleases(needed))
    if isinstance(pruned, InstallRefused):
        return (f"old releases could not be removed: {pruned.reason}",)
    try:
        await world.changes.prune(needed)
    except UpgradeFailed as failed:
        return (*pruned.warnings, f"old changes could not be removed: {failed}")
    return pruned.warnings
