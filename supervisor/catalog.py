"""The catalog of `pos_workflow`: the definitions on disk and the workspace, asked in a worker thread."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from mcpkeep.actors.workflow_desk import Shelf
from mcpkeep.protocol.workflow.definition import DefinitionError, OptionMissing, WorkflowDefinition
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.markdown import MarkdownError
from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound
from mcpkeep.supervisor.definitions import CacheCounts, Definitions, WorkflowUnknown

__all__ = ["WorkspaceCatalog", "WorkspaceShelf"]

T = TypeVar("T")

_THREADS = 4
"""Reading definitions waits for the disk, or else holds the interpreter: more do not help."""


class WorkspaceShelf:
    """The workflows of one workspace, and those shipped."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._definitions = Definitions(workspace)

    def counts(self) -> CacheCounts:
        """How often a definition was there already."""
        return self._definitions.counts()

    def listing(self, category: str | None) -> Listing:
        return self._definitions.listing(category)

    def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        return self._definitions.resolve(name, options)

    def is_inside(self, target_file: str) -> bool:
        base = os.path.realpath(self._workspace)
        real = os.path.realpath(os.path.join(base, target_file))
        return real == base or real.startswith(base.rstrip(os.sep) + os.sep)


class WorkspaceCatalog:
    """Asks one shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def ask(self, question: Callable[[Shelf], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(question, self._shelf, limiter=self._limiter)
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
