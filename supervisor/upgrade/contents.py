"""The content of an installation as the upgrade actor handles it: plans, staging, baseline in one object."""

from collections.abc import Mapping, Sequence

import anyio.to_thread
import msgspec

from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.plan import Plan
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.baseline import exchange_baseline
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.content_files import ContentFiles
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import digest
from mcpkeep.supervisor.upgrade.planner import Planner
from mcpkeep.supervisor.upgrade.safe_upgrade import compare_with_safe_upgrade

__all__ = ["InstalledContents"]


class InstalledContents(ContentFiles):
    """`Contents` on this machine."""

    def __init__(
        self, layout: Layout, planner: Planner, *, cache: Cache, calls: FileCalls = OS_CALLS
    ) -> None:
        super().__init__(layout, cache=cache, calls=calls)
        self._planner = planner

    async def compare(self, plan: Plan, release_id: str) -> tuple[str, ...]:
        """See `safe_upgrade.compare_with_safe_upgrade`; run by that release's interpreter."""
        python = str(self._layout.releases / release_id / "venv" / "bin" / "python")
        return await self._run(
            lambda _: compare_with_safe_upgrade(plan, self._layout.base, python=python, cache=self._cache)
        )

    async def plan(self, source: SourceFacts, *, content: bool, code: bool) -> Plan:
        """See `Planner.plan`. The same inputs give the same plan_id, so that decisions outlast a restart."""
        plan = await self._planner.plan(source, content=content, code=code)
        return msgspec.structs.replace(plan, plan_id=plan.digest[:12])

    async def stale(self, plan: Plan) -> tuple[str, ...]:
        """See `Planner.stale`."""
        return await self._planner.stale(plan)

    async def expected(self, plan: Plan, paths: Sequence[str]) -> Mapping[str, str | None]:
        """SHA-256 of each live file, None for absent. Raises UpgradeFailed where the plan is stale."""
        found = await anyio.to_thread.run_sync(
            lambda: {path: digest(self._layout.base / path) for path in paths}
        )
        changed = await self._planner.stale(plan)
        if changed:
            raise UpgradeFailed(
                f"the plan is stale, since these changed meanwhile: {', '.join(changed[:10])}",
                remediation="plan again, and decide on what that answers",
                details={"changed": changed},
            )
        return found

    async def exchange_baseline(
        self, session_id: str, undone: Sequence[str], *, lacking: Sequence[str] = ()
    ) -> None:
        """See `baseline.exchange_baseline`."""
        await self._run(
            lambda _: exchange_baseline(self._layout, session_id, undone, lacking=lacking, calls=self._calls)
        )
