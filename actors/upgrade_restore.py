"""Whole folders from a backup onto a damaged tree, and the release that they belong to."""

import msgspec

from mcpkeep.actors.upgrade_commit import commit
from mcpkeep.actors.upgrade_phases import BACKUP_LIMIT
from mcpkeep.actors.upgrade_target import provide_release
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.backup import BackupInfo, BackupRefused, RestoreBackup, RestoreDone
from mcpkeep.protocol.upgrade.change import ChangeOrder
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import RECORDS

__all__ = ["restore"]


async def restore(
    world: UpgradeWorld, session_id: str, backup: BackupInfo, *, step: Progress
) -> tuple[ChangeOrder, RestoreDone, tuple[str, ...]]:
    """Make the folders what they were in the backup, and its release current; forget the changes, which lead
    from what does not stand any more. Answers also what is worth knowing, in words. Raises UpgradeFailed.

    The backup has been verified.
    """
    if backup.release is None:
        raise UpgradeFailed(
            f"backup {backup.backup_id} does not say of which release it is",
            remediation="go the manual way of the rollback procedure",
        )
    rebuilt = await provide_release(world, backup.release, backup.backup_id, step=step)
    step(f"restoring whole folders from backup {backup.backup_id}")
    done = await world.backups.ask(RestoreBackup(backup.backup_id, session_id), within=BACKUP_LIMIT)
    if isinstance(done, BackupRefused):
        raise UpgradeFailed(done.reason, remediation=done.remedy)
    order = await world.changes.plan_restored(session_id, backup.release, done.carried_over)
    try:
        await commit(world, order, freeze=False, step=step)
    except UpgradeFailed as failed:
        raise UpgradeFailed(
            f"the folders are those of backup {backup.backup_id}, but its release cannot take over: {failed}",
            remediation=failed.remediation,
            details=failed.details,
        ) from failed
    await world.contents.exchange_baseline(session_id, order.undoes)
    await world.changes.forget()
    gone = {*order.removed, *RECORDS}  # the records are mcpkeep's own
    kept = tuple(path for path in done.carried_over if path not in gone)
    return order, msgspec.structs.replace(done, carried_over=kept), rebuilt
