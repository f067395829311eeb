"""Workflow definitions: what a workflow is, phase by phase, once its files were understood."""

from typing import Literal

import msgspec

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.workflow.gate import Gate
from mcpkeep.protocol.workflow.task import Task, find_tasks

__all__ = [
    "BrokenWorkflow",
    "DefinitionError",
    "DynamicPhases",
    "OptionMissing",
    "Phase",
    "WorkflowDefinition",
    "phase_tasks",
]


class DefinitionError(McpkeepError):
    """A workflow's files do not make a workflow."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        """Relative to the workflow's folder, or, for a spec's tasks, to the workspace."""
        self.reason = reason


class OptionMissing(McpkeepError):
    """The caller has to give, or to correct, an entry of `options` before this workflow can start."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"options: {option!r} {reason}")
        self.option = option


class Phase(msgspec.Struct, frozen=True):
    """One phase."""

    number: int
    name: str
    content: str
    """Its markdown; made from the metadata where it has no file."""
    purpose: str = ""
    estimated_effort: str = ""
    key_deliverables: tuple[str, ...] = ()
    validation_criteria: tuple[str, ...] = ()
    requires_restart: bool = False
    file: str | None = None
    """Relative to the workflow's folder."""
    tasks: tuple[Task, ...] | None = None
    """None where they stand in `content`; `phase_tasks` gives them either way."""
    gate: Gate | None = None
    """None where the definition has no gate for this phase."""
    broken: str | None = None
    """Why its `file` cannot be read, and so not be shown."""
    warnings: tuple[str, ...] = ()
    """Those of the workflow's that are about this phase."""
    extra: dict[str, object] = {}
    """Members of its metadata that mcpkeep does not know."""


class DynamicPhases(msgspec.Struct, frozen=True):
    """Where the phases of a dynamic workflow come from: the spec that an option of `start` names."""

    source_path_key: str = "spec_path"
    parser: Literal["spec_tasks_parser"] = "spec_tasks_parser"
    phase_template: str | None = None
    """Markdown with `[PHASE_NAME]` and the like; None where the spec's own text is shown as it is."""
    task_template: str | None = None
    gate: Gate | None = None
    """From `phases/dynamic/gate-definition.yaml`; it guards every phase that comes from the spec."""


class WorkflowDefinition(msgspec.Struct, frozen=True):
    """One workflow."""

    workflow_type: str
    """The name it is started by."""
    name: str
    """For people."""
    description: str
    version: str
    category: str
    estimated_duration: str
    phases: tuple[Phase, ...]
    """By rising number; of a dynamic workflow only those that do not come from a spec."""
    target_languages: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other names it answers to, its folder's among them where that is another."""
    acknowledgment_required: bool = False
    dynamic: DynamicPhases | None = None
    """Set while phases are still to come from a spec; `expand` gives the whole."""
    warnings: tuple[str, ...] = ()
    """What is odd about its files without making it useless."""
    extra: dict[str, object] = {}
    """Members of its metadata that mcpkeep does not know."""

    @property
    def total_phases(self) -> int | Literal["dynamic"]:
        """How many phases it has; `dynamic` where only a spec can tell."""
        return len(self.phases) if self.dynamic is None else "dynamic"

    @property
    def broken(self) -> str | None:
        """What is wrong with the first of its phases that is broken; the others can be worked on."""
        for phase in self.phases:
            if phase.broken is not None:
                return f"{phase.file}: {phase.broken}"
        gates = (*(phase.gate for phase in self.phases), self.dynamic.gate if self.dynamic else None)
        return next((gate.broken for gate in gates if gate is not None and gate.broken is not None), None)

    @property
    def first_phase(self) -> int:
        """The lowest phase number."""
        return self.phases[0].number

    def phase(self, number: int) -> Phase | None:
        """The phase of that number, if there is one."""
        return next((phase for phase in self.phases if phase.number == number), None)

    def next_phase(self, number: int) -> Phase | None:
        """The phase after that number; None after the last."""
        return next((phase for phase in self.phases if phase.number > number), None)


class BrokenWorkflow(msgspec.Struct, frozen=True):
    """A workflow that is listed with what is wrong with it, and cannot be started."""

    workflow_type: str
    error: str
    """File and reason."""


def phase_tasks(phase: Phase) -> tuple[Task, ...]:
    """The phase's tasks by rising number; raises MarkdownError where its text is too large or too deep.

    A task that is only listed gets the section of its number in the phase's text, or else its name.
    """
    if phase.tasks is None:
        return tuple(sorted(find_tasks(phase.content), key=lambda task: task.number))
    if all(task.content for task in phase.tasks):
        return phase.tasks
    written = {task.number: task.content for task in find_tasks(phase.content)}
    return tuple(
        msgspec.structs.replace(task, content=task.content or written.get(task.number) or _heading(task))
        for task in phase.tasks
    )


def _heading(task: Task) -> str:
    return f"# Task {task.number}: {task.name}\n\n{task.purpose}".strip() + "\n"
