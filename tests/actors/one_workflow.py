"""What a workflow's tool asks for beside the tool itself: sessions in memory, and one definition."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

from mcpkeep.actors.session import News
from mcpkeep.actors.workflow_desk import Shelf
from mcpkeep.protocol.workflow.definition import WorkflowDefinition
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.refusal import StorageFailed
from mcpkeep.protocol.workflow.session import Session
from mcpkeep.protocol.workflow.snapshot import Stored, store

__all__ = ["Memory", "OneWorkflow"]

T = TypeVar("T")


class Memory:
    """A SessionStore that keeps nothing, and can be full."""

    full = False

    async def refresh(self) -> News:
        return News()

    async def acquire(self) -> News:
        return News()

    async def save(self, session: Session) -> Stored:
        if self.full:
            raise StorageFailed("the disk is full", "free disk space")
        return store(session)

    async def delete(self, session_id: str, *, reason: str | None, now: datetime) -> bool:
        return True

    async def close(self) -> None: ...


class OneWorkflow:
    """A Shelf and its Catalog."""

    def __init__(self, workflow: WorkflowDefinition) -> None:
        self._workflow = workflow

    def listing(self, category: str | None) -> Listing:
        return Listing(workflows=())

    def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        return self._workflow

    def is_inside(self, target_file: str) -> bool:
        return True

    async def ask(self, question: Callable[[Shelf], T]) -> T:
        return question(self)
