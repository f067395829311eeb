"""The installer in a worker thread: the event loop goes on, and a cancellation ends its processes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.release import (
    MakeRelease,
    PostInstallDone,
    Pruned,
    RebuildRelease,
    ReleaseChecked,
    ReleaseMade,
    Snapshot,
)
from mcpkeep.supervisor.upgrade.command import Stopped, Stopper
from mcpkeep.supervisor.upgrade.installer import Installer

__all__ = ["ThreadedInstaller"]

T = TypeVar("T")
Progress = Callable[[str], None]


class ThreadedInstaller:
    """`actors.installer.Releases` on the real installation. One that is cancelled waits for the clean-up."""

    def __init__(self, installer: Installer) -> None:
        self._installer = installer
        self._limiter = anyio.CapacityLimiter(1)

    async def adopt(self, *, progress: Progress) -> ReleaseMade:
        told = _from_threads(progress)
        return await self._run(lambda stopper: self._installer.adopt(stopper=stopper, progress=told))

    async def make(self, order: MakeRelease, *, progress: Progress) -> ReleaseMade:
        told = _from_threads(progress)
        return await self._run(lambda stopper: self._installer.make(order, stopper=stopper, progress=told))

    async def rebuild(self, order: RebuildRelease, *, progress: Progress) -> ReleaseMade:
        told = _from_threads(progress)
        return await self._run(lambda stopper: self._installer.rebuild(order, stopper=stopper, progress=told))

    async def check(self, release_id: str) -> ReleaseChecked:
        return await self._run(lambda stopper: self._installer.check(release_id, stopper=stopper))

    async def run_post_install(self, release_id: str, *, progress: Progress) -> PostInstallDone:
        told = _from_threads(progress)
        return await self._run(
            lambda stopper: self._installer.run_post_install(release_id, stopper=stopper, progress=told)
        )

    async def prune(self, keep: Sequence[str], *, progress: Progress) -> Pruned:
        told = _from_threads(progress)
        return await self._run(lambda stopper: self._installer.prune(keep, stopper=stopper, progress=told))

    async def snapshot(self, release_id: str | None) -> Snapshot:
        return await self._run(lambda stopper: self._installer.snapshot(release_id, stopper=stopper))

    async def _run(self, work: Callable[[Stopper], T]) -> T:
        stopper = Stopper()
        failure: UpgradeFailed | Stopped | None = None
        result: list[T] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_when_cancelled, stopper)
            try:
                # Shielded: a cancellation reaches the thread through the stopper.
                result.append(await anyio.to_thread.run_sync(work, stopper, limiter=self._limiter))
            except (UpgradeFailed, Stopped) as error:
                failure = error
            tasks.cancel_scope.cancel()
        if isinstance(failure, Stopped):
            await anyio.lowlevel.checkpoint_if_cancelled()
        if failure is not None:
            raise failure
        # What was done all the same before the cancellation came is told.
        return result[0]


async def _stop_when_cancelled(stopper: Stopper) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        stopper.stop()


def _from_threads(progress: Progress) -> Progress:
    """`progress`, to be called in any thread; dropped where the event loop is gone."""
    token = anyio.lowlevel.current_token()

    def tell(step: str) -> None:
        with suppress(anyio.RunFinishedError):
            anyio.from_thread.run_sync(progress, step, token=token)

    return tell
