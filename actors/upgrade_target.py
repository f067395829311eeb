"""Where a rollback leads: the former release, probed, and rebuilt from its backup where it cannot start."""

from collections.abc import Sequence

import anyio

from mcpkeep.actors.upgrade_install import ask_installer
from mcpkeep.actors.upgrade_phases import BACKUP_LIMIT
from mcpkeep.actors.upgrade_world import Progress, UpgradeWorld
from mcpkeep.protocol.upgrade.backup import BackupInfo, BackupRefused, ListBackups, VerifyBackup
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import CheckRelease, InstallRefused, RebuildRelease
from mcpkeep.protocol.upgrade.rollback import NoWayBack, Target, resolve_target

__all__ = [
    "ReleaseProbe",
    "Unstartable",
    "find_damage",
    "find_target",
    "list_backups",
    "probe",
    "provide_release",
    "rebuild",
]


class Unstartable(UpgradeFailed):
    """A release cannot be started as it is; what keeps it from that, in words."""

    def __init__(self, release_id: str, problems: tuple[str, ...]) -> None:
        super().__init__(
            f"release {release_id} cannot be started: {'; '.join(problems[:3])}",
            remediation="have it rebuilt from a backup",
            details={"release": release_id, "problems": problems},
        )
        self.problems = problems


class ReleaseProbe:
    """Looks whether a release can be started, beside work that needs to know only later."""

    def __init__(self, world: UpgradeWorld, release_id: str) -> None:
        self._world = world
        self._release_id = release_id
        self._failure: UpgradeFailed | None = None
        self._done = anyio.Event()

    async def run(self) -> None:
        """Look; once."""
        try:
            problems = await probe(self._world, self._release_id)
        except UpgradeFailed as failed:
            self._failure = failed
        else:
            self._failure = Unstartable(self._release_id, problems) if problems else None
        self._done.set()

    async def require(self, step: Progress) -> None:
        """Wait for what `run` finds. Raises Unstartable; or UpgradeFailed: that cannot be told."""
        if not self._done.is_set():
            step(f"looking whether release {self._release_id} can be started")
        await self._done.wait()
        if self._failure is not None:
            raise self._failure


async def find_target(world: UpgradeWorld, to: str | None, *, step: Progress) -> Target | BackupInfo:
    """Where a rollback leads; or the backup `to`, verified, whose folders a damaged tree gets back whole.

    Raises NoWayBack; or UpgradeFailed, as that backup cannot be used.
    """
    step("planning the way back")
    backups = () if to is None else await list_backups(world)
    backup = next((backup for backup in backups if backup.backup_id == to), None)
    if backup is not None:
        await _verify(world, backup.backup_id, step=step)
        if await find_damage(world):
            return backup
    try:
        return resolve_target(await world.changes.records(), backups, to)
    except NoWayBack as none:
        if none.details["known"] or await list_backups(world):
            raise
        raise NoWayBack(
            "there is nothing to go back to: no upgrade was made here yet",
            remediation="upgrade first: each upgrade makes the way back from it",
            details=none.details,
        ) from none


async def probe(world: UpgradeWorld, release_id: str) -> tuple[str, ...]:
    """What keeps the release from being started; empty where nothing does."""
    if release_id == world.live.frozen():
        return ()  # It runs, and only has to be woken.
    checked = await ask_installer(world.installer, CheckRelease(release_id))
    if isinstance(checked, InstallRefused):
        return (checked.reason,)
    return checked.problems


async def provide_release(
    world: UpgradeWorld, release_id: str, backup_id: str | None, *, step: Progress
) -> tuple[str, ...]:
    """Have a release that can be started; where it must be rebuilt, from `backup_id` or another backup of it.

    Answers what was done about it, in words; empty where nothing had to be. Raises UpgradeFailed.
    """
    step(f"looking whether release {release_id} can be started")
    problems = await probe(world, release_id)
    if not problems:
        return ()
    return await rebuild(world, release_id, Unstartable(release_id, problems), backup_id, step=step)


async def rebuild(
    world: UpgradeWorld, release_id: str, why: Unstartable, backup_id: str | None, *, step: Progress
) -> tuple[str, ...]:
    """Rebuild the release from `backup_id` or another backup of it; in words, what was done and why.

    Raises UpgradeFailed.
    """
    backup = _backup_of(await list_backups(world), release_id, backup_id)
    if backup is None:
        raise UpgradeFailed(
            f"{why}; and no backup of it is left to rebuild it from",
            remediation="go back to another one: `mcpkeep backups` lists them",
            details=why.details,
        )
    await _verify(world, backup.backup_id, why=str(why), step=step)
    step(f"rebuilding release {release_id} from backup {backup.backup_id}")
    made = await ask_installer(world.installer, RebuildRelease(release_id, backup.backup_id))
    if isinstance(made, InstallRefused):
        raise UpgradeFailed(
            f"{why}; and it cannot be rebuilt: {made.reason}",
            remediation=made.remedy,
            details={"output": made.output, "release": release_id, "backup_id": backup.backup_id},
        )
    return (f"{why}; it was rebuilt from backup {backup.backup_id}", *made.warnings)


async def _verify(world: UpgradeWorld, backup_id: str, *, step: Progress, why: str = "") -> None:
    """Read the backup back. Raises UpgradeFailed, which names the files and the next older sound one."""
    step(f"verifying backup {backup_id}")
    wrong = await _damage(world, backup_id)
    if not wrong:
        return
    older: str | None = None
    for backup in await list_backups(world):
        if backup.complete and backup.backup_id < backup_id and not await _damage(world, backup.backup_id):
            older = backup.backup_id
            break
    prefix = f"{why}; " if why else ""
    raise UpgradeFailed(
        f"{prefix}backup {backup_id} cannot be used: {', '.join(wrong[:5])}"
        + (f" and {len(wrong) - 5} more" if wrong[5:] else ""),
        remediation=f"take the next older one, which was read and is whole: `mcpkeep rollback --to {older}`"
        if older
        else "there is no older backup that is whole; replace the files named from elsewhere",
        details={"backup_id": backup_id, "damaged": wrong, "next_older": older},
    )


async def find_damage(world: UpgradeWorld) -> tuple[str, ...]:
    """What is damaged in the live tree, as far as mcpkeep can tell, or why it cannot."""
    try:
        return await world.changes.damaged()
    except UpgradeFailed as failed:
        return (str(failed),)


async def _damage(world: UpgradeWorld, backup_id: str) -> tuple[str, ...]:
    found = await world.backups.ask(VerifyBackup(backup_id), within=BACKUP_LIMIT)
    if isinstance(found, BackupRefused):
        return (found.reason,)
    return (*found.mismatches, *(f"{path} is missing" for path in found.missing))


async def list_backups(world: UpgradeWorld) -> tuple[BackupInfo, ...]:
    """All of them, newest first."""
    return await world.backups.ask(ListBackups(), within=BACKUP_LIMIT)


def _backup_of(backups: Sequence[BackupInfo], release_id: str, first: str | None) -> BackupInfo | None:
    """That one, if it is there; else the newest of the release."""
    usable = [backup for backup in backups if backup.complete]
    named = next((backup for backup in usable if backup.backup_id == first), None)
    return named or next((backup for backup in usable if backup.release == release_id), None)
