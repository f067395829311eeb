"""The workflows of a workspace, which cost a start nothing: their parts come with the first call."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from msgspec import Raw

from mcpkeep.actors.toolbox import Progress
from mcpkeep.protocol.relay.tools import ToolResult

if TYPE_CHECKING:
    from mcpkeep.actors.phase_runs import PhaseRunner
    from mcpkeep.supervisor.workflow_parts import WorkflowParts

__all__ = ["Workflows"]


class Workflows:
    """Answers the tool's calls while `run` runs."""

    def __init__(
        self,
        workspace: str,
        state_dir: str | None,
        *,
        who: str,
        on_bug: Callable[[str, Exception], str],
        runners: "Callable[[], Mapping[str, PhaseRunner]]" = dict,
    ) -> None:
        """`who` names this process to others that want to write; `runners` gives who runs the phases of a
        workflow type, when the parts are made.
        """
        self._workspace = workspace
        self._state_dir = state_dir
        self._who = who
        self._on_bug = on_bug
        self._runners = runners
        self._needed = anyio.Event()
        self._ready = anyio.Event()
        self._parts: WorkflowParts | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Make the parts when they are needed, and be where phases run, until cancelled."""
        task_status.started()
        await self._needed.wait()
        make = await anyio.to_thread.run_sync(_import_parts)
        parts = make(
            self._workspace, self._state_dir, who=self._who, on_bug=self._on_bug, runners=self._runners()
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(parts.runs.run)
            self._parts = parts
            self._ready.set()

    async def call(self, arguments: Raw, progress: Progress) -> ToolResult:
        """Answer one call of `pos_workflow`."""
        return await (await self._get()).tool.call(arguments, progress)

    async def facts(self) -> Mapping[str, object]:
        """What `status` tells of them."""
        return await (await self._get()).facts()

    async def mark_rolled_back(self, session_id: str, reason: str) -> None:
        """Make the session `rolled_back`, with the reason; one that is unknown or is so already is let be."""
        await (await self._get()).mark_rolled_back(session_id, reason)

    async def close(self) -> None:
        """Let changes under way finish, and another process write."""
        if self._parts is not None:
            await self._parts.close()

    async def _get(self) -> "WorkflowParts":
        self._needed.set()
        await self._ready.wait()
        assert self._parts is not None
        return self._parts


def _import_parts() -> "type[WorkflowParts]":
    from mcpkeep.supervisor.workflow_parts import WorkflowParts

    return WorkflowParts
