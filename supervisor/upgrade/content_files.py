"""An installation's content on its way to another version: staging, application, baseline and diffs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from mcpkeep.protocol.upgrade.plan import Applied, Decision, Plan
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.apply import apply_plan, forget_conflicts, verify_staged
from mcpkeep.supervisor.upgrade.baseline import renew_baseline
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.copying import Check
from mcpkeep.supervisor.upgrade.diff import plan_diffs
from mcpkeep.supervisor.upgrade.index import unindexed
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.staging import fill_staging, remove_staging, take_code

__all__ = ["ContentFiles"]

T = TypeVar("T")


class ContentFiles:
    """Of the interface `Contents` all that is not the plan itself; one call at a time, in a thread.

    Cancellation is heeded between files. Each raises UpgradeFailed.
    """

    def __init__(self, layout: Layout, *, cache: Cache | None = None, calls: FileCalls = OS_CALLS) -> None:
        self._layout = layout
        self._cache = cache or Cache(None)
        self._calls = calls
        self._limiter = anyio.CapacityLimiter(1)

    async def fill_staging(self, session_id: str) -> None:
        """See `staging.fill_staging`."""
        await self._run(lambda check: fill_staging(self._layout, session_id, calls=self._calls, check=check))

    async def apply(self, plan: Plan, session_id: str, decisions: Mapping[str, Decision]) -> Applied:
        """See `apply.apply_plan`."""
        return await self._run(
            lambda check: apply_plan(
                self._layout, plan, session_id, decisions, calls=self._calls, check=check
            )
        )

    async def verify_staged(self, plan: Plan, session_id: str, applied: Applied) -> tuple[str, ...]:
        """See `apply.verify_staged`."""
        return await self._run(lambda _: verify_staged(self._layout, plan, session_id, applied))

    async def unindexed(self, plan: Plan, session_id: str) -> tuple[str, ...]:
        """See `index.unindexed`."""
        planned = {path for file in plan.files for path in (file.path, file.renamed_from)}
        return await self._run(
            lambda _: unindexed(self._layout.base, self._layout.staged(session_id), besides=planned)
        )

    async def take_code(self, session_id: str, folder: str) -> None:
        """See `staging.take_code`."""
        await self._run(
            lambda check: take_code(self._layout, session_id, Path(folder), calls=self._calls, check=check)
        )

    async def renew_baseline(self, plan: Plan, session_id: str, *, lacking: Sequence[str]) -> None:
        """See `baseline.renew_baseline`."""
        await self._run(
            lambda check: renew_baseline(
                self._layout, plan, session_id, lacking=lacking, calls=self._calls, check=check
            )
        )

    async def diffs(self, plan: Plan, paths: Sequence[str]) -> Mapping[str, str]:
        """See `diff.plan_diffs`."""
        return await self._run(
            lambda check: plan_diffs(self._layout, plan, paths, cache=self._cache, check=check)
        )

    async def remove_staging(self, session_id: str) -> None:
        """See `staging.remove_staging`; not given up half-way."""
        await self._run(lambda _: remove_staging(self._layout, session_id, calls=self._calls))

    async def forget_conflicts(self, session_id: str) -> None:
        """See `apply.forget_conflicts`; not given up half-way."""
        await self._run(lambda _: forget_conflicts(self._layout, session_id, calls=self._calls))

    async def _run(self, work: Callable[[Check], T]) -> T:
        return await anyio.to_thread.run_sync(work, anyio.from_thread.check_cancelled, limiter=self._limiter)
