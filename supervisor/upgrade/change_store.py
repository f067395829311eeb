"""The Changes of the upgrade actor: the synchronous parts, in a worker thread of their own."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

from mcpkeep.protocol.upgrade.change import ChangeOrder, ChangeRecord, RollbackPlan
from mcpkeep.protocol.upgrade.late_edit import LateEdit, Standing
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.installed import find_damage, look_after
from mcpkeep.supervisor.upgrade.rollback import plan_first, plan_rest, plan_restored

__all__ = ["ThreadedChanges"]

T = TypeVar("T")


class ThreadedChanges:
    """One call at a time; a call that has begun is not abandoned where its caller is cancelled."""

    def __init__(self, files: ChangeFiles, *, calls: FileCalls = OS_CALLS) -> None:
        self._files = files
        self._calls = calls
        self._limiter = anyio.CapacityLimiter(1)

    async def prepare_first(self, order: ChangeOrder) -> None:
        await self._run(lambda: self._files.prepare_first(order))

    async def prepare_rest(self, order: ChangeOrder) -> None:
        await self._run(lambda: self._files.prepare_rest(order))

    async def swap_first(self, order: ChangeOrder) -> None:
        await self._run(lambda: self._files.swap_first(order))

    async def swap_rest(self, order: ChangeOrder) -> tuple[LateEdit, ...]:
        return await self._run(lambda: self._files.swap_rest(order))

    async def keep_spares(self, session_id: str) -> None:
        await self._run(lambda: self._files.keep_spares(session_id))

    async def settle(self, session_id: str) -> None:
        await self._run(lambda: self._files.settle(session_id))

    async def undo(self, session_id: str) -> tuple[str, ...]:
        return await self._run(lambda: self._files.undo(session_id))

    async def discard(self, session_id: str) -> None:
        await self._run(lambda: self._files.discard(session_id))

    async def records(self) -> tuple[ChangeRecord, ...]:
        return await self._run(self._files.made.records)

    async def plan_first(self, session_id: str, to: str | None) -> RollbackPlan:
        return await self._run(lambda: plan_first(self._files, session_id, to, calls=self._calls))

    async def plan_rest(self, first: RollbackPlan, to: str | None) -> RollbackPlan:
        return await self._run(lambda: plan_rest(self._files, first, to, calls=self._calls))

    async def plan_restored(
        self, session_id: str, release_id: str, carried_over: Sequence[str]
    ) -> ChangeOrder:
        return await self._run(lambda: plan_restored(self._files, session_id, release_id, carried_over))

    async def damaged(self) -> tuple[str, ...]:
        return await self._run(lambda: find_damage(self._files))

    async def look_after(self, session_id: str) -> Standing:
        return await self._run(lambda: look_after(self._files, session_id, calls=self._calls))

    async def forget(self) -> None:
        await self._run(self._files.made.forget)

    async def prune(self, keep: Sequence[str]) -> None:
        await self._run(lambda: self._files.made.prune(keep))

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)
