"""A dynamic workflow made whole: its fixed phases, and after them those of a spec's `tasks.md`."""

import re

import msgspec

from mcpkeep.protocol.workflow.definition import DefinitionError, DynamicPhases, Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.markdown import MarkdownError, decode_markdown
from mcpkeep.protocol.workflow.spec_tasks import SpecPhase, SpecTask, parse_spec_tasks
from mcpkeep.protocol.workflow.task import Task

__all__ = ["expand"]

_PLACE = re.compile(r"\[([A-Z_]{4,30})\]")


def expand(definition: WorkflowDefinition, *, source: str, data: bytes) -> WorkflowDefinition:
    """Put the phases of `data`, the bytes of the tasks file called `source`, after the fixed ones.

    Phases of the spec keep their numbers where these are free; otherwise all of them move up, so that the
    first follows the last fixed one. A definition that is not dynamic is given back as it is. Raises
    DefinitionError.
    """
    dynamic = definition.dynamic
    if dynamic is None:
        return definition
    try:
        found = parse_spec_tasks(decode_markdown(data))
    except MarkdownError as error:
        raise DefinitionError(source, str(error)) from None
    last = max((phase.number for phase in definition.phases), default=-1)
    shift = max(last + 1 - found[0].number, 0)
    phases = tuple(_phase(phase, phase.number + shift, dynamic) for phase in found)
    return msgspec.structs.replace(definition, phases=(*definition.phases, *phases), dynamic=None)


def _phase(phase: SpecPhase, number: int, dynamic: DynamicPhases) -> Phase:
    places = {
        "PHASE_NUMBER": str(number),
        "PHASE_NAME": phase.name,
        "PHASE_DESCRIPTION": phase.description,
        "ESTIMATED_DURATION": phase.estimated_duration,
        "TASK_COUNT": str(len(phase.tasks)),
        "VALIDATION_GATE": _checklist(phase.validation_gate),
        "NEXT_PHASE_NUMBER": str(number + 1),
    }
    return Phase(
        number=number,
        name=phase.name,
        content=_filled(dynamic.phase_template, places) or phase.markdown,
        purpose=phase.description,
        estimated_effort=phase.estimated_duration,
        validation_criteria=phase.validation_gate,
        tasks=tuple(_task(task, number, phase.name, dynamic) for task in phase.tasks),
        gate=dynamic.gate,
    )


def _task(task: SpecTask, phase: int, phase_name: str, dynamic: DynamicPhases) -> Task:
    places = {
        "TASK_ID": f"{phase}.{task.number}",
        "TASK_NUMBER": str(task.number),
        "TASK_NAME": task.name,
        "PHASE_NUMBER": str(phase),
        "PHASE_NAME": phase_name,
        "TASK_DESCRIPTION": task.description,
        "ESTIMATED_TIME": task.estimated_time,
        "DEPENDENCIES": ", ".join(task.dependencies) or "None",
        "ACCEPTANCE_CRITERIA": _checklist(task.acceptance_criteria),
        "NEXT_TASK_NUMBER": str(task.number + 1),
    }
    filled = _filled(dynamic.task_template, places)
    content = f"{filled.rstrip()}\n\n---\n\n{task.markdown}" if filled else task.markdown
    return Task(number=task.number, name=task.name, content=content, purpose=task.description)


def _checklist(texts: tuple[str, ...]) -> str:
    return "\n".join(f"- [ ] {text}" for text in texts)


def _filled(template: str | None, places: dict[str, str]) -> str:
    """In one pass, so that what a spec says is never taken for a place to fill."""
    if template is None:
        return ""
    return _PLACE.sub(lambda found: places.get(found[1], found[0]), template)
