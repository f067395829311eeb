"""What the actions of `pos_workflow` work with."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from mcpkeep.actors.phase_runs import PhaseRuns
from mcpkeep.actors.session import SessionActor
from mcpkeep.protocol.workflow.content import PhaseContent, phase_content
from mcpkeep.protocol.workflow.definition import OptionMissing, Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.refusal import NotFound, Refusal
from mcpkeep.protocol.workflow.session import Session, Status

__all__ = ["Catalog", "Desk", "Members", "Shelf", "find_phase", "resolve", "total_of"]

T = TypeVar("T")

Members: TypeAlias = Mapping[str, object]
"""The members of an answer beside `status`, `action` and `session_id`."""


class Shelf(Protocol):
    """The workflows there are, and the workspace they are for. Its methods read the disk."""

    def listing(self, category: str | None) -> Listing: ...

    def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        """The workflow of that name or alias, as its files are now, with all phases."""
        ...

    def is_inside(self, target_file: str) -> bool:
        """Whether the path, links followed, is in the workspace."""
        ...


class Catalog(Protocol):
    """Asks the shelf without blocking the event loop."""

    async def ask(self, question: Callable[[Shelf], T]) -> T:
        """Answer a question in a worker thread, with all that it computes: one trip costs as much as a read.

        Raises:
            NotFound: there is no such workflow.
            InvalidArgument: its files or the options are wrong; the text says where.
            Refusal: what the question raises.
        """
        ...


class Desk(msgspec.Struct, frozen=True):
    """Who knows what."""

    sessions: SessionActor
    catalog: Catalog
    runs: PhaseRuns
    progress: Callable[[float, float | None, str], None]
    """Tells whoever made this call how far it is."""

    async def content_of(self, session: Session, number: int) -> PhaseContent:
        """A phase of the session's workflow. Raises as Catalog.ask; NotFound without such a phase."""

        def look(shelf: Shelf) -> PhaseContent:
            return phase_content(find_phase(resolve(shelf, session), number))

        return await self.catalog.ask(look)

    async def total_of(self, session: Session) -> int:
        """How many phases there are, by the session or its workflow as it is now; what the session says where
        that one is gone or broken.
        """
        try:
            return await self.catalog.ask(lambda shelf: total_of(resolve(shelf, session), session))
        except Refusal:
            return session.total_phases


def resolve(shelf: Shelf, session: Session) -> WorkflowDefinition:
    """The session's workflow, as its files are now. Raises what the shelf does.

    prAxIs OS began sessions on a spec with nothing but its folder as their target, no option beside it.
    """
    try:
        return shelf.resolve(session.workflow_type, session.options)
    except OptionMissing as missing:
        if missing.option in session.options:
            raise
        options = {**session.options, missing.option: session.target_file}
        return shelf.resolve(session.workflow_type, options)


def total_of(workflow: WorkflowDefinition, session: Session) -> int:
    """How many phases there are: of a completed session as many as it had, else those of its workflow now:
    a session that prAxIs OS wrote may not know them.
    """
    if session.status is Status.COMPLETED:
        return session.total_phases
    return workflow.phases[-1].number - workflow.first_phase + 1


def find_phase(workflow: WorkflowDefinition, number: int) -> Phase:
    """Raises NotFound where the workflow has no such phase."""
    phase = workflow.phase(number)
    if phase is None:
        numbers = ", ".join(str(phase.number) for phase in workflow.phases[:50])
        raise NotFound(f"{workflow.workflow_type} has no phase {number}", f"its phases are {numbers}")
    return phase
