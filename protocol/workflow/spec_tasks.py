"""A spec's `tasks.md`: its phases, their tasks and what must hold before the next phase.

Two ways of writing are in use: `### Task N.M: title` sections below `## Phase N: name`, and check-list
entries `- [ ] **Task N.M**: title` with the particulars indented below.
"""

import re

import msgspec

from mcpkeep.protocol.workflow.markdown import (
    Block,
    Heading,
    Item,
    Items,
    MarkdownError,
    Outline,
    Paragraph,
    Section,
    field,
    fields,
    listed,
    parse_markdown,
    plain,
)
from mcpkeep.protocol.workflow.task import DURATION

__all__ = ["SpecPhase", "SpecTask", "parse_spec_tasks"]

MAX_PHASES = 100

_PHASE = re.compile(r"Phase\s+(\d{1,4})\s*[:\-–—]\s*(.+)", re.IGNORECASE)
_TASK = re.compile(r"Task\s+(?:\d{1,4}\.)?(\d{1,4})\b\s*[:.)\-–—]*\s*(.*)", re.IGNORECASE)
_ENTRY = re.compile(r"\*{0,2}Task\s+(?:\d{1,4}\.)?(\d{1,4})\b:?\*{0,2}\s*[:.)\-–—]*\s*(.*)", re.IGNORECASE)
_GATE = re.compile(r"(?:Phase\s+(\d{1,4})\s+)?(?:Validation|Checkpoint)\s+Gate\b.*", re.IGNORECASE)


class SpecTask(msgspec.Struct, frozen=True):
    """One task of a spec."""

    number: int
    """Within its phase."""
    name: str
    description: str
    estimated_time: str
    dependencies: tuple[str, ...]
    acceptance_criteria: tuple[str, ...]
    markdown: str


class SpecPhase(msgspec.Struct, frozen=True):
    """One phase of a spec."""

    number: int
    name: str
    description: str
    estimated_duration: str
    tasks: tuple[SpecTask, ...]
    validation_gate: tuple[str, ...]
    markdown: str


def parse_spec_tasks(text: str) -> tuple[SpecPhase, ...]:
    """Read the phases in the order of their numbers; only those that have tasks.

    Raises MarkdownError where the text is too large, has no such phase, or has one twice.
    """
    outline = parse_markdown(text)
    gates = _gates(outline)
    found: dict[int, SpecPhase] = {}
    for section in outline.sections():
        if not (match := _PHASE.fullmatch(section.title)):
            continue
        number = int(match[1])
        tasks = _tasks(section)
        if not tasks:
            continue
        if number in found:
            raise MarkdownError(f"has two phases {number} with tasks; give each a number of its own")
        found[number] = SpecPhase(
            number=number,
            name=match[2],
            description=field(section.blocks, "objective", "goal", "purpose", "description"),
            estimated_duration=field(_above_tasks(section.blocks), *DURATION),
            tasks=tasks,
            validation_gate=gates.get(number, ()),
            markdown=section.markdown,
        )
    if not found:
        raise MarkdownError("has no phase with tasks; write '## Phase 1: name' and '### Task 1.1: title'")
    if len(found) > MAX_PHASES:
        raise MarkdownError(f"has {len(found)} phases, more than {MAX_PHASES}; split the spec")
    return tuple(found[number] for number in sorted(found))


def _tasks(phase: Section) -> tuple[SpecTask, ...]:
    inner = Outline(source=phase.markdown, blocks=parse_markdown(phase.markdown).blocks)
    written: list[tuple[int, str, str]] = [
        (int(match[1]), match[2] or section.title, _without_gate(section))
        for section in inner.sections()[1:]
        if (match := _TASK.fullmatch(section.title))
    ]
    if not written:
        items = [item for block in phase.blocks if isinstance(block, Items) for item in block.items]
        written = [entry for item in items if (entry := _entry(item)) is not None]
    unique = len({number for number, _, _ in written}) == len(written)
    return tuple(
        _task(number if unique else place, name, markdown)
        for place, (number, name, markdown) in enumerate(written, 1)
    )


def _entry(item: Item) -> tuple[int, str, str] | None:
    """A check-list entry, its particulars turned into a text of their own below a heading."""
    if not (match := _ENTRY.fullmatch(item.text)):
        return None
    name = plain(match[2])
    below = item.markdown.partition("\n")[2]
    return int(match[1]), name, f"### Task {match[1]}: {name}\n\n{below}".strip() + "\n"


def _task(number: int, name: str, markdown: str) -> SpecTask:
    blocks = parse_markdown(markdown).blocks
    for block in blocks:  # particulars that are themselves a list: read each entry as a text
        if isinstance(block, Items) and not block.ordered:
            nested = [parse_markdown(item.markdown).blocks for item in block.items]
            blocks = (*blocks, *(part for parts in nested if _is_particular(parts) for part in parts))
    depends = field(blocks, "dependencies", "depends on", "prerequisites")
    return SpecTask(
        number=number,
        name=name,
        description=field(blocks, "description", "objective", "purpose", "goal") or name,
        estimated_time=field(blocks, *DURATION),
        dependencies=()
        if depends.lower() in ("", "none", "-", "n/a")
        else tuple(map(str.strip, depends.split(","))),
        acceptance_criteria=tuple(item.text for item in listed(blocks, "acceptance criteria") if item.text),
        markdown=markdown,
    )


def _is_particular(blocks: tuple[Block, ...]) -> bool:
    return bool(blocks) and isinstance(blocks[0], Paragraph) and bool(list(fields(blocks[0].text)))


def _above_tasks(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    heading = next((index for index, block in enumerate(blocks) if isinstance(block, Heading)), len(blocks))
    return blocks[:heading]


def _without_gate(section: Section) -> str:
    """A phase's gate often follows its last task without a heading, and is no part of that task."""
    lines = section.markdown.split("\n")
    for block in section.blocks:
        if isinstance(block, Paragraph) and _gate_label(block.text) is not None:
            within = next(n for n, line in enumerate(block.text.split("\n")) if _gate_label(line) is not None)
            lines = lines[: block.line - section.line + within]
            break
    return "\n".join(lines).strip().removesuffix("---").strip() + "\n"


def _gate_label(text: str) -> "re.Match[str] | None":
    return next((match for name, _ in fields(text) if (match := _GATE.fullmatch(name))), None)


def _gates(outline: Outline) -> dict[int, tuple[str, ...]]:
    """By phase: the first list after a heading or label such as `Phase 1 Validation Gate`, anywhere."""
    found: dict[int, tuple[str, ...]] = {}
    phase: int | None = None
    waiting: int | None = None
    for block in outline.blocks:
        match block:
            case Heading():
                title = plain(block.text)
                if inside := _PHASE.fullmatch(title):
                    phase = int(inside[1])
                gate = _GATE.fullmatch(title)
                waiting = _gate_phase(gate, phase)
            case Paragraph():
                gate = _gate_label(block.text)
                waiting = waiting if gate is None else _gate_phase(gate, phase)
            case Items():
                if waiting is not None:
                    found.setdefault(waiting, tuple(item.text for item in block.items if item.text))
                waiting = None
            case _:
                pass
    return found


def _gate_phase(gate: "re.Match[str] | None", phase: int | None) -> int | None:
    if gate is None:
        return None
    return int(gate[1]) if gate[1] else phase
