"""Puts `pos_workflow` together for one workspace: sessions on disk, definitions, and who runs phases.

Imported when it is first needed: all of it takes as long to import as a start of mcpkeep.
"""

import os
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio

from mcpkeep.actors.phase_runs import PhaseRunner, PhaseRuns
from mcpkeep.actors.session import SessionActor
from mcpkeep.actors.workflow_tool import WorkflowTool
from mcpkeep.protocol.bases import BASES
from mcpkeep.protocol.workflow.session import Status
from mcpkeep.supervisor.catalog import WorkspaceCatalog, WorkspaceShelf
from mcpkeep.supervisor.session_store import SessionFiles
from mcpkeep.supervisor.session_threads import ThreadedSessionStore

__all__ = ["WorkflowParts", "sessions_folder"]

SETTLE_LIMIT = 5.0
"""Seconds for what a phase came to, to become part of its session."""


def sessions_folder(workspace: str, state_dir: str | None) -> Path:
    """Where the sessions are: with prAxIs OS, or else in the user's state folder, `state_dir`.

    A `state_dir` within prAxIs OS tells that it was there at the start, should the workspace be gone by now.
    """
    for base in BASES:
        path = os.path.join(workspace, base)
        if os.path.isdir(path) or (state_dir or "").startswith(path + os.sep):
            return Path(path, "state", "workflows")
    if state_dir is not None:
        return Path(state_dir, "workflows")
    return Path(workspace, ".praxis-os", "state", "workflows")


class WorkflowParts:
    """The tool's parts. Nothing is read before the first call, nor written before the first change."""

    def __init__(
        self,
        workspace: str,
        state_dir: str | None,
        *,
        who: str,
        on_bug: Callable[[str, Exception], str],
        runners: Mapping[str, PhaseRunner],
    ) -> None:
        """`who` names this process to others that want to write; `runners` are by workflow type."""
        self._files = SessionFiles(
            sessions_folder(workspace, state_dir),
            who=who,
            workspace=Path(workspace),
            older=[Path(workspace, base, ".cache", "state") for base in BASES],
        )
        self._sessions = SessionActor(
            store=ThreadedSessionStore(self._files),
            now=lambda: datetime.now(UTC),
            new_id=lambda: str(uuid.uuid4()),
        )
        self._shelf = WorkspaceShelf(Path(workspace))
        catalog = WorkspaceCatalog(self._shelf)
        self.runs = PhaseRuns(runners, on_bug=on_bug)
        self.tool = WorkflowTool(sessions=self._sessions, catalog=catalog, runs=self.runs)

    async def facts(self) -> Mapping[str, object]:
        """What `status` tells: sessions by status, how definitions are cached, and who writes."""
        await self.tool.load()
        counts = {status.value: (await self._sessions.list(status, limit=0)).count for status in Status}
        page = await self._sessions.list(limit=0)
        cache = self._shelf.counts()
        return {
            "sessions": {"count": page.count, **{status: many for status, many in counts.items() if many}},
            "definitions": {"hits": cache.hits, "misses": cache.misses, "hit_rate": round(cache.hit_rate, 4)},
            "writer": self._files.writer(),
            **({"warnings": page.warnings} if page.warnings else {}),
        }

    async def mark_rolled_back(self, session_id: str, reason: str) -> None:
        """See `session_marks.mark_rolled_back`."""
        from mcpkeep.supervisor.session_marks import mark_rolled_back

        await self.tool.load()
        await mark_rolled_back(self._sessions, session_id, reason)

    async def close(self) -> None:
        """Let changes under way finish, and another process write."""
        with anyio.move_on_after(SETTLE_LIMIT):
            await self.runs.settled()
        await self._sessions.close()
