"""Questions to the catalog that come at once: each has its own answer, and files are looked at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import pytest

from mcpkeep.actors.workflow_desk import Shelf
from mcpkeep.protocol.workflow.definition import WorkflowDefinition
from mcpkeep.protocol.workflow.listing import Listing
from mcpkeep.protocol.workflow.refusal import NotFound
from mcpkeep.supervisor.catalog import WorkspaceCatalog
from mcpkeep.supervisor.definitions import WorkflowUnknown

pytestmark = pytest.mark.anyio


@dataclass
class Counted:
    """A shelf on which every workflow stands but `none`, of the version that its option says."""

    looks: list[str] = field(default_factory=list[str])

    def listing(self, category: str | None) -> Listing:
        return Listing(())

    def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        self.looks.append(name)
        if name == "none":
            raise WorkflowUnknown(name, ())
        return WorkflowDefinition(
            workflow_type=name,
            name=name,
            description="",
            version=str(options.get("version", "")),
            category="",
            estimated_duration="",
            phases=(),
        )

    def is_inside(self, target_file: str) -> bool:
        return True


async def answers(catalog: WorkspaceCatalog, *asked: tuple[str, dict[str, object]]) -> list[str]:
    """What the questions, asked at once, are answered, in their order."""
    found: dict[int, str] = {}

    async def ask(n: int, name: str, options: dict[str, object]) -> None:
        def question(shelf: Shelf) -> str:
            workflow = shelf.resolve(name, options)
            return f"{workflow.workflow_type} {workflow.version}".strip()

        try:
            found[n] = await catalog.ask(question)
        except NotFound as error:
            found[n] = str(error)

    async with anyio.create_task_group() as tasks:
        for n, (name, options) in enumerate(asked):
            tasks.start_soon(ask, n, name, options)
    return [found[n] for n in range(len(asked))]


async def test_questions_at_once_look_at_a_workflow_once_and_the_next_ones_again() -> None:
    shelf = Counted()
    catalog = WorkspaceCatalog(shelf)
    assert await answers(catalog, *[("one", {})] * 10) == ["one"] * 10
    assert 1 <= len(shelf.looks) <= 2  # one for each thread
    before = len(shelf.looks)
    assert await answers(catalog, ("one", {})) == ["one"]
    assert len(shelf.looks) == before + 1


async def test_questions_at_once_with_other_options_have_other_answers() -> None:
    asked: list[tuple[str, dict[str, object]]] = [("one", {"version": str(n)}) for n in range(6)]
    catalog = WorkspaceCatalog(Counted())
    assert await answers(catalog, *asked, ("one", {})) == [*(f"one {n}" for n in range(6)), "one"]


async def test_a_question_that_fails_among_others_fails_alone() -> None:
    first, unknown, last = await answers(WorkspaceCatalog(Counted()), ("one", {}), ("none", {}), ("two", {}))
    assert (first, last) == ("one", "two")
    assert unknown.startswith("no workflow is called 'none'")
