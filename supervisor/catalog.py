"""The catalog of `pos_workflow`: the definitions on disk and the workspace, asked in a worker thread."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from mcpkeep.actors.workflow_desk import Shelf
from mcpkeep.protocol.workflow.definition import DefinitionError, OptionMissing, WorkflowDefinition
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.markdown import MarkdownError
from mcpkeep.protocol.workflow.refusal import InvalidArgument, NotFound
from mcpkeep.supervisor.batches import Batches
from mcpkeep.supervisor.definitions import CacheCounts, Definitions, WorkflowUnknown

__all__ = ["WorkspaceCatalog", "WorkspaceShelf"]

T = TypeVar("T")

_THREADS = 2
"""Questions mostly hold the interpreter, so that more do not help; one may wait for the disk meanwhile."""


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


class _OneLook:
    """A shelf that looks at a workflow's files once. What is asked of it was asked before that look."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._resolved: dict[str, WorkflowDefinition] = {}
        self.listing = shelf.listing
        self.is_inside = shelf.is_inside

    def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        if options:  # they may say what its phases are
            return self._shelf.resolve(name, options)
        found = self._resolved.get(name)
        if found is None:
            found = self._resolved[name] = self._shelf.resolve(name, options)
        return found


class _Answer:
    def __init__(self, value: object) -> None:
        self.value = value


class WorkspaceCatalog:
    """Asks one shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._batches: Batches[Callable[[Shelf], object], _Answer] = Batches(self._answer, threads=_THREADS)

    async def ask(self, question: Callable[[Shelf], T]) -> T:
        try:
            return cast("T", (await self._batches(question)).value)
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

    def _answer(self, questions: Sequence[Callable[[Shelf], object]]) -> list[_Answer | Exception]:
        answers: list[_Answer | Exception] = []
        shelf = _OneLook(self._shelf)
        for question in questions:
            try:
                answers.append(_Answer(question(shelf)))
            except Exception as error:
                answers.append(error)
        return answers
