"""The way back: the switch of an upgrade the other way round, journalled like it."""

from datetime import datetime

import anyio

from mcpkeep.actors.upgrade_commit import commit
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.change import RollbackPlan
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.journal import Begun, Ended
from mcpkeep.protocol.upgrade.report import history_line
from mcpkeep.protocol.upgrade.request import RolledBack
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

__all__ = ["RollbackFailed", "roll_back"]


class RollbackFailed(UpgradeFailed):
    """The former version could not be brought back; what served goes on."""


async def roll_back(
    world: UpgradeWorld, *, to: str | None, by: str, step: Progress, of_session: str | None = None
) -> RolledBack:
    """Go back to a release or backup by its id, or the former release.

    `of_session` is the upgrade whose lock is held already and which ends by this. Raises RollbackFailed.
    """
    began, began_at = world.clock(), world.now()
    session_id = f"rollback-{world.new_id()}"
    try:
        if of_session is None:
            await world.lock.acquire(session_id)
        try:
            begun = Begun(session_id, "rollback", False, by, world.now(), {"to": to})
            await world.journals.begin(begun)
            try:
                plan = await _go_back(world, session_id, to, step)
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await world.contents.remove_staging(session_id)
                    await world.journals.append(session_id, Ended("failed", world.now(), str(error)))
                raise
            outcome = await _record(world, session_id, plan, by, began_at, world.clock() - began)
            await world.contents.remove_staging(session_id)
            await world.journals.append(session_id, Ended("completed", world.now(), by))
        finally:
            if of_session is None:
                with anyio.CancelScope(shield=True):
                    await world.lock.release()
    except RollbackFailed:
        raise
    except UpgradeFailed as error:
        raise RollbackFailed(
            f"the rollback failed: {error}", remediation=error.remediation, details=error.details
        ) from error
    return outcome


async def _go_back(world: UpgradeWorld, session_id: str, to: str | None, step: Progress) -> RollbackPlan:
    step("planning the way back")
    plan = await world.changes.plan_rollback(session_id, to)
    await commit(world, plan.order, freeze=False, step=step)
    await world.contents.exchange_baseline(session_id, plan.undoes)
    return plan


async def _record(
    world: UpgradeWorld, session_id: str, plan: RollbackPlan, by: str, began: datetime, seconds: float
) -> RolledBack:
    order = plan.order
    report = RollbackReport(
        session_id=session_id,
        by=by,
        from_release=order.from_release,
        to_release=order.to_release,
        started_at=began,
        ended_at=world.now(),
        restored=plan.restored,
        merged=plan.merged,
        kept=plan.kept,
        kept_aside=plan.kept_aside,
    )
    summary = await world.records.write_summary(f"{report.ended_at:%Y-%m-%d}-rollback", report.to_markdown())
    await world.records.log_line(history_line(report))
    return RolledBack(
        session_id=session_id,
        from_release=order.from_release,
        to_release=order.to_release,
        restored=len(plan.restored),
        merged=plan.merged,
        kept=plan.kept,
        kept_aside=plan.kept_aside,
        seconds=seconds,
        summary=summary,
    )
