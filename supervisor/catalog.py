"""The catalog of `pos_workflow`: the definitions on disk and the workspace, asked in a worker thread."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from mcpkeep.protocol.workflow.content import PhaseContent, phase_content
from mcpkeep.protocol.workflow.definition import (
    DefinitionError,
    OptionMissing,
    Phase,
    WorkflowDefinition,
    phase_tasks,
)
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.markdown import MarkdownError
from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound
from mcpkeep.protocol.workflow.task import TaskContent, read_task
from mcpkeep.supervisor.definitions import CacheCounts, Definitions, WorkflowUnknown

__all__ = ["WorkspaceCatalog"]

T = TypeVar("T")

_THREADS = 4
"""Reading definitions waits for the disk, or else holds the interpreter: more do not help."""


class WorkspaceCatalog:
    """The workflows of one workspace, and those shipped."""

    def __init__(self, workspace: Path, *, definitions: Definitions | None = None) -> None:
        self._workspace = workspace
        self._definitions = definitions or Definitions(workspace)
        self._limiter = anyio.CapacityLimiter(_THREADS)

    def counts(self) -> CacheCounts:
        """How often a definition was there already."""
        return self._definitions.counts()

    async def listing(self, category: str | None) -> Listing:
        return await self._run(lambda: self._definitions.listing(category))

    async def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        return await self._run(lambda: self._definitions.resolve(name, options))

    async def content(self, phase: Phase) -> PhaseContent:
        return await self._run(lambda: phase_content(phase))

    async def task(self, phase: Phase, number: int) -> TaskContent:
        return await self._run(lambda: _task(phase, number))

    async def is_inside(self, target_file: str) -> bool:
        return await self._run(lambda: _is_inside(self._workspace, target_file))

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        except WorkflowUnknown as error:
            raise NotFound(str(error), "list_workflows tells which there are") from error
        except OptionMissing as error:
            raise InvalidArgument(str(error), "give it in options when the session is started") from error
        except DefinitionError as error:
            raise InvalidArgument(
                f"the workflow's definition is broken: {error}", "mend that file; no restart is needed"
            ) from error
        except MarkdownError as error:
            raise InvalidArgument(
                f"the phase's text {error}", "mend the workflow's file; no restart is needed"
            ) from error


def _task(phase: Phase, number: int) -> TaskContent:
    tasks = {task.number: task for task in phase_tasks(phase)}
    if number not in tasks:
        known = ", ".join(map(str, sorted(tasks)[:50]))
        raise NotFound(
            f"phase {phase.number} has no task {number}",
            f"its tasks are {known}" if known else "it has no tasks; its content says what to do",
        )
    return read_task(tasks[number])


def _is_inside(workspace: Path, target_file: str) -> bool:
    base = os.path.realpath(workspace)
    real = os.path.realpath(os.path.join(base, target_file))
    return real == base or real.startswith(base.rstrip(os.sep) + os.sep)
