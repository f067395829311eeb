"""What answers show of a workflow: its overview, and a phase with its tasks and what its gate asks for."""

from typing import Literal

import msgspec

from mcpkeep.protocol.workflow.definition import DefinitionError, Phase, WorkflowDefinition, phase_tasks
from mcpkeep.protocol.workflow.gate import EvidenceField, Gate

__all__ = [
    "Asked",
    "ListedTask",
    "Overview",
    "PhaseContent",
    "PhaseName",
    "name_phase",
    "overview",
    "phase_content",
]


class ListedTask(msgspec.Struct, frozen=True):
    """One task as its phase lists it; `get_task` tells the rest."""

    task_number: int
    title: str


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of evidence that a gate asks for."""

    type: str
    required: bool
    description: str = ""


class PhaseName(msgspec.Struct, frozen=True):
    """A phase in a word: its number and what it is for."""

    phase_number: int
    title: str
    description: str


class PhaseContent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One phase, whole; encodes without what its definition does not say."""

    phase_number: int
    title: str
    description: str
    content: str
    """Its markdown."""
    tasks: tuple[ListedTask, ...]
    evidence_schema: dict[str, Asked] | None = None
    """By field; absent where the phase has no gate."""
    gate_strict: bool | None = None
    estimated_effort: str = ""
    key_deliverables: tuple[str, ...] = ()
    validation_criteria: tuple[str, ...] = ()
    requires_restart: bool = False
    warnings: tuple[str, ...] = ()


class Overview(msgspec.Struct, frozen=True, omit_defaults=True):
    """A workflow from afar."""

    workflow_type: str
    name: str
    description: str
    version: str
    category: str
    total_phases: int | Literal["dynamic"]
    estimated_duration: str
    phases: tuple[PhaseName, ...]
    target_languages: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def overview(workflow: WorkflowDefinition) -> Overview:
    """The workflow with all its phases by name."""
    return Overview(
        workflow_type=workflow.workflow_type,
        name=workflow.name,
        description=workflow.description,
        version=workflow.version,
        category=workflow.category,
        total_phases=workflow.total_phases,
        estimated_duration=workflow.estimated_duration,
        phases=tuple(name_phase(phase) for phase in workflow.phases),
        target_languages=workflow.target_languages,
        artifacts=workflow.artifacts,
        tags=workflow.tags,
    )


def name_phase(phase: Phase) -> PhaseName:
    return PhaseName(phase_number=phase.number, title=phase.name, description=phase.purpose)


def phase_content(phase: Phase) -> PhaseContent:
    """The phase as agents work by it.

    Raises DefinitionError where its file cannot be read, MarkdownError where it is too large or too deep.
    """
    if phase.broken is not None:
        raise DefinitionError(str(phase.file), phase.broken)
    return PhaseContent(
        phase_number=phase.number,
        title=phase.name,
        description=phase.purpose,
        content=phase.content,
        tasks=tuple(ListedTask(task.number, task.name) for task in phase_tasks(phase)),
        evidence_schema=_asked(phase.gate),
        gate_strict=phase.gate.strict if phase.gate is not None else None,
        estimated_effort=phase.estimated_effort,
        key_deliverables=phase.key_deliverables,
        validation_criteria=phase.validation_criteria,
        requires_restart=phase.requires_restart,
        warnings=phase.warnings,
    )


def _asked(gate: Gate | None) -> dict[str, Asked] | None:
    if gate is None or not gate.enabled:
        return None
    return {field.name: _ask(field) for field in gate.fields}


def _ask(field: EvidenceField) -> Asked:
    return Asked(type=field.type, required=field.required, description=field.description)
