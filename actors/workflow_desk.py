"""What the actions of `pos_workflow` work with."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import msgspec

from mcpkeep.actors.phase_runs import PhaseRuns
from mcpkeep.actors.session import SessionActor
from mcpkeep.protocol.workflow.content import PhaseContent
from mcpkeep.protocol.workflow.definition import Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.refusal import NotFound
from mcpkeep.protocol.workflow.session import Session
from mcpkeep.protocol.workflow.task import TaskContent

__all__ = ["Catalog", "Desk", "Members", "find_phase"]

Members: TypeAlias = Mapping[str, object]
"""The members of an answer beside `status`, `action` and `session_id`."""


class Catalog(Protocol):
    """The workflows there are, and the workspace they are for. Nothing here blocks the event loop."""

    async def listing(self, category: str | None) -> Listing: ...

    async def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        """The workflow of that name or alias, as its files are now, with all phases.

        Raises:
            NotFound: there is none.
            InvalidArgument: its files or the options are wrong; the text says where.
        """
        ...

    async def content(self, phase: Phase) -> PhaseContent:
        """Raises InvalidArgument where its text cannot be read."""
        ...

    async def task(self, phase: Phase, number: int) -> TaskContent:
        """Raises NotFound where the phase has no such task, InvalidArgument as content."""
        ...

    async def is_inside(self, target_file: str) -> bool:
        """Whether the path, links followed, is in the workspace."""
        ...


class Desk(msgspec.Struct, frozen=True):
    """Who knows what."""

    sessions: SessionActor
    catalog: Catalog
    runs: PhaseRuns
    progress: Callable[[float, float | None, str], None]
    """Tells whoever made this call how far it is."""

    async def definition_of(self, session: Session) -> WorkflowDefinition:
        """Raises as Catalog.resolve."""
        return await self.catalog.resolve(session.workflow_type, session.options)

    async def content_of(self, session: Session, number: int) -> PhaseContent:
        """A phase of the session's workflow. Raises as Catalog.resolve; NotFound without such a phase."""
        return await self.catalog.content(find_phase(await self.definition_of(session), number))


def find_phase(workflow: WorkflowDefinition, number: int) -> Phase:
    """Raises NotFound where the workflow has no such phase."""
    phase = workflow.phase(number)
    if phase is None:
        numbers = ", ".join(str(phase.number) for phase in workflow.phases[:50])
        raise NotFound(f"{workflow.workflow_type} has no phase {number}", f"its phases are {numbers}")
    return phase
