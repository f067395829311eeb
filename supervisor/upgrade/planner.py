"""Plans an upgrade's files three ways. Nothing in workspace or source changes by it, not even a timestamp."""

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread

from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import CODE_PARTS, CONTENT_PARTS, SETTINGS
from mcpkeep.protocol.upgrade.plan import Plan
from mcpkeep.protocol.upgrade.plan_digest import digest_of
from mcpkeep.protocol.upgrade.rag_paths import ConfigRefused, read_elsewhere
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.git import Blobs
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_tree import Special, read_bytes, read_local
from mcpkeep.supervisor.upgrade.planning import Planning
from mcpkeep.supervisor.upgrade.repository import (
    NotASource,
    algorithm_of,
    describe,
    read_facts,
    read_history,
    read_tree,
)

__all__ = ["Planner", "make_plan", "what_changed"]

Check = Callable[[], None]


class Planner:
    """Makes plans in a thread, one at a time; cancellation is heeded between files."""

    def __init__(
        self,
        layout: Callable[[], Layout],
        *,
        cache: Cache,
        new_id: Callable[[], str] = lambda: secrets.token_hex(4),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`layout` is asked for each plan: an upgrade may rename the installation's folder."""
        self._layout = layout
        self._cache = cache
        self._new_id = new_id
        self._clock = clock
        self._limiter = anyio.CapacityLimiter(1)

    async def plan(self, source: SourceFacts, *, content: bool, code: bool) -> Plan:
        """Plan the parts that are asked for.

        Raises UpgradeFailed, which names them, where a file of the parts cannot be read or is neither file,
        folder nor link, and where the source has problems.
        """
        parts = [part.installed for part in (*CONTENT_PARTS * content, *CODE_PARTS * code)]
        return await anyio.to_thread.run_sync(
            lambda: make_plan(
                source,
                parts,
                self._layout(),
                cache=self._cache,
                plan_id=self._new_id(),
                made_at=self._clock(),
                check=anyio.from_thread.check_cancelled,
            ),
            limiter=self._limiter,
        )

    async def stale(self, plan: Plan) -> tuple[str, ...]:
        """What has changed since the plan was made: paths, or `source`."""
        return await anyio.to_thread.run_sync(
            lambda: what_changed(plan, self._layout(), check=anyio.from_thread.check_cancelled),
            limiter=self._limiter,
        )


def make_plan(
    source: SourceFacts,
    parts: Sequence[str],
    layout: Layout,
    *,
    cache: Cache,
    plan_id: str,
    made_at: datetime,
    check: Check = lambda: None,
) -> Plan:
    """Plan the installed folders `parts`. `check` is called between files, and may raise."""
    folder = Path(source.path)
    cache = cache.without(layout.workspace, layout.base, folder)
    try:
        facts = read_facts(folder, source.commit)
    except NotASource as error:
        raise UpgradeFailed(error.problem.text, remediation=error.problem.remedy) from error
    tree = read_tree(folder, facts.commit, cache=cache)
    if tree.problems:
        raise UpgradeFailed(
            "; ".join(problem.text for problem in tree.problems), remediation=tree.problems[0].remedy
        )
    history = read_history(folder, facts, cache=cache)
    with Blobs(folder) as blobs:
        planning = Planning(tree, history, facts, parts, layout, blobs, cache, check)
        files = planning.files()
    agreed = None if planning.agreed is None else history.commits[planning.agreed].oid
    return Plan(
        plan_id=plan_id,
        digest=digest_of(facts.commit, files),
        source_path=source.path,
        source_commit=facts.commit,
        source_version=source.version,
        installed_commit=agreed,
        installed_version=None if agreed is None else describe(folder, facts, agreed, cache=cache),
        made_at=made_at,
        files=files,
        warnings=(*tree.warnings, *planning.warnings(files), *_elsewhere(layout)),
    )


def _elsewhere(layout: Layout) -> list[str]:
    try:
        return read_elsewhere(read_bytes(layout.base, SETTINGS))
    except (Special, ConfigRefused):
        return []  # phase 0 tells of it


def what_changed(plan: Plan, layout: Layout, *, check: Check = lambda: None) -> tuple[str, ...]:
    """The planned paths where something else stands now, and `source` where its HEAD is another commit."""
    changed: list[str] = []
    try:
        if read_facts(Path(plan.source_path)).commit != plan.source_commit:
            changed.append("source")
    except (NotASource, UpgradeFailed):
        changed.append("source")
    algorithm = algorithm_of(plan.source_commit)
    for file in plan.files:
        check()
        expected = {file.renamed_from or file.path: file.local}
        if file.renamed_from is not None:
            expected[file.path] = None
        for path, version in expected.items():
            try:
                local = read_local(layout.base, path, algorithm=algorithm, known=lambda _: True)
            except Special:
                changed.append(path)
                continue
            if (None if local is None else local.version) != version:
                changed.append(path)
    return tuple(changed)
