"""The way back: the switch of an upgrade the other way round, journalled like it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple, TypeVar

import anyio

from mcpkeep.actors.both import both
from mcpkeep.actors.upgrade_commit import commit
from mcpkeep.actors.upgrade_restore import restore
from mcpkeep.actors.upgrade_target import (
    ReleaseProbe,
    Unstartable,
    find_damage,
    find_target,
    list_backups,
    rebuild,
)
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.backup import BackupInfo
from mcpkeep.protocol.upgrade.change import ChangeOrder, RollbackPlan
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Ended
from mcpkeep.protocol.upgrade.late_edit import LateEdit, lacking, tell_edits
from mcpkeep.protocol.upgrade.request import RolledBack
from mcpkeep.protocol.upgrade.rollback import NoWayBack, Target
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport, StepTimes

__all__ = ["RollbackFailed", "roll_back"]

T = TypeVar("T")

_SERVER = "mcp_server/"


class RollbackFailed(UpgradeFailed):
    """The former version could not be brought back; what served goes on."""


class _Outcome(NamedTuple):
    """What became of the files."""

    order: ChangeOrder
    restored: int
    restored_paths: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    kept_aside: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    """Paths to which the former version was not brought back."""


async def roll_back(
    world: UpgradeWorld, *, to: str | None, by: str, step: Progress, of_session: str | None = None
) -> RolledBack:
    """Go back to a release or backup by its id, or the former release.

    A backup is gone back to by its changes, so that edits made since survive; on a damaged tree its folders
    are restored whole. `of_session` is the upgrade whose lock is held already and which ends by this.
    Raises NoWayBack, before anything but the lock is written, or RollbackFailed.
    """
    began, times = world.now(), StepTimes(step, world.clock)
    session_id = f"rollback-{world.new_id()}"
    try:
        if of_session is None:
            await world.lock.acquire(session_id)
        try:
            target = await find_target(world, to, step=times)
            outcome = await _change(world, session_id, target, to, by, times)
            return await _shielded(_record(world, session_id, outcome, by, began, times))
        finally:
            if of_session is None:
                with anyio.CancelScope(shield=True):
                    await world.lock.release()
    except NoWayBack:
        raise
    except UpgradeFailed as error:
        raise await _shielded(_failed(world, session_id, by, began, times, error)) from error


async def _shielded(work: Awaitable[T]) -> T:
    done: list[T] = []
    with anyio.CancelScope(shield=True):
        done.append(await work)
    return done[0]


async def _change(
    world: UpgradeWorld,
    session_id: str,
    target: Target | BackupInfo,
    to: str | None,
    by: str,
    step: Progress,
) -> _Outcome:
    options = {"to": to, "restore": isinstance(target, BackupInfo)}
    begun = Begun(session_id, "rollback", False, by, world.now(), options)
    if isinstance(target, BackupInfo):
        return await _journalled(world, begun, lambda: _restore(world, session_id, target, step))
    found = ReleaseProbe(world, target.release)
    outcome, _ = await both(
        lambda: _journalled(world, begun, lambda: _go_back(world, session_id, target, found, step)), found.run
    )
    return outcome


async def _journalled(world: UpgradeWorld, begun: Begun, work: Callable[[], Awaitable[_Outcome]]) -> _Outcome:
    await world.journals.begin(begun)
    try:
        return await work()
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await _end_failed(world, begun.session_id, str(error))
        raise


async def _end_failed(world: UpgradeWorld, session_id: str, reason: str) -> None:
    """Unless some of it stands: then the next start is to take that back."""
    state = await world.journals.read(session_id)
    if state is not None and not state.groups:
        await world.contents.remove_staging(session_id)
        await world.journals.append(session_id, Ended("failed", world.now(), reason))


async def _go_back(
    world: UpgradeWorld, session_id: str, target: Target, found: ReleaseProbe, step: Progress
) -> _Outcome:
    warnings: tuple[str, ...] = ()
    if target.merges:
        warnings = (
            f"backup {target.backup_id} was merged with what stood here: what you edited since stays",
        )

    async def switch(sure: Callable[[], Awaitable[None]] | None) -> tuple[RollbackPlan, tuple[LateEdit, ...]]:
        try:
            plan = await world.changes.plan_first(session_id, target.to)
        except UpgradeFailed:
            if sure is not None:
                await sure()  # it may be for the release, which can be rebuilt
            raise

        async def whole() -> ChangeOrder:
            nonlocal plan
            plan = await world.changes.plan_rest(plan, target.to)
            return plan.order

        late = await commit(world, plan.order, freeze=False, step=step, sure=sure, whole=whole)
        return plan, late

    step(f"staging the way back, and looking whether release {target.release} can be started")
    try:
        plan, late = await switch(lambda: found.require(step))
    except Unstartable as why:
        warnings += await rebuild(world, target.release, why, target.backup_id, step=step)
        step("staging the way back")
        plan, late = await switch(None)
    warnings += tell_edits(late, "the restored version")
    warnings += await _shielded(_missing(world, plan.kept))  # it stands: nothing is to call it failed
    return _Outcome(
        plan.order,
        len(plan.restored),
        plan.restored,
        plan.merged,
        plan.kept,
        plan.kept_aside,
        warnings,
        (*plan.kept_aside, *lacking(late)),
    )


async def _missing(world: UpgradeWorld, kept: Sequence[str]) -> tuple[str, ...]:
    """Of the server's code: what was gone before stays so, since it may have been deleted on purpose."""
    if not any(path.startswith(_SERVER) for path in kept):
        return ()
    damage = [found for found in await find_damage(world) if _SERVER in found]
    backup = next((backup.backup_id for backup in await list_backups(world) if backup.complete), None)
    if not damage or backup is None:
        return ()
    told = ", ".join(damage[:3]) + (f" and {len(damage) - 3} more" if damage[3:] else "")
    return (f"damaged: {told}; `mcpkeep rollback --to {backup}` brings whole folders back",)


async def _restore(world: UpgradeWorld, session_id: str, backup: BackupInfo, step: Progress) -> _Outcome:
    order, done, warnings = await restore(world, session_id, backup, step=step)
    told = f"whole folders were restored from backup {backup.backup_id}: {done.restored} files"
    return _Outcome(
        order, done.restored, kept=done.carried_over, kept_aside=done.kept_aside, warnings=(told, *warnings)
    )


async def _record(
    world: UpgradeWorld, session_id: str, outcome: _Outcome, by: str, began: datetime, times: StepTimes
) -> RolledBack:
    """The former version serves already: what cannot be written is told, and changes nothing about that."""
    order, warnings = outcome.order, list(outcome.warnings)
    try:
        times("bringing the baseline back")
        await world.contents.exchange_baseline(session_id, order.undoes, lacking=outcome.lacking)
    except UpgradeFailed as failed:
        warnings.append(f"the baseline could not be brought back: {failed}")
    times("writing the report")
    version = (await world.targets.inspect()).current_version
    report = RollbackReport(
        session_id=session_id,
        by=by,
        from_release=order.from_release,
        to_release=order.to_release,
        to_version=version,
        started_at=began,
        ended_at=world.now(),
        steps=times.seconds(),
        restored=outcome.restored_paths,
        merged=outcome.merged,
        kept=outcome.kept,
        kept_aside=outcome.kept_aside,
        warnings=tuple(warnings),
    )
    summary = ""
    try:
        summary = await world.records.record_rollback(report)
        await world.contents.remove_staging(session_id)
    except UpgradeFailed as failed:
        warnings.append(f"the records could not be written: {failed}")
    await world.journals.append(session_id, Ended("completed", world.now(), by))
    return RolledBack(
        session_id=session_id,
        from_release=order.from_release,
        to_release=order.to_release,
        restored=outcome.restored,
        merged=outcome.merged,
        kept=outcome.kept,
        kept_aside=outcome.kept_aside,
        seconds=times.total,
        summary=summary,
        undone=order.undoes,
        warnings=tuple(warnings),
    )


async def _failed(
    world: UpgradeWorld, session_id: str, by: str, began: datetime, times: StepTimes, error: UpgradeFailed
) -> RollbackFailed:
    """The failure with what stands now, on record."""
    target = await world.targets.inspect()
    report = RollbackReport(
        session_id=session_id,
        by=by,
        from_release=target.current_release,
        to_release=target.current_release or "unknown",
        to_version=target.current_version,
        started_at=began,
        ended_at=world.now(),
        steps=times.seconds(),
        failure=f"{error}; {error.remediation}",
    )
    with suppress(UpgradeFailed):
        await world.records.record_rollback(report)
    return RollbackFailed(
        f"the rollback failed: {error}; release {report.to_release} stands",
        remediation=error.remediation,
        details={**error.details, "stands": target.current_release, "serves": world.live.release},
    )
