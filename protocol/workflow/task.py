"""One task of a phase, read out of its markdown: what to do, step by step, and what comes of it."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import msgspec

from mcpkeep.protocol.workflow.markdown import (
    Block,
    Fence,
    Heading,
    Items,
    Outline,
    Paragraph,
    field,
    fields,
    listed,
    parse_markdown,
    plain,
)

__all__ = ["DURATION", "ExecutionStep", "Task", "TaskContent", "find_tasks", "read_task"]

DURATION = (
    "estimated time",
    "time estimate",
    "estimated duration",
    "estimated effort",
    "duration",
    "time",
    "effort",
)
"""The names under which workflows state how long something takes."""

_TASK = re.compile(r"Task\s+(?:\d+\.)?(\d{1,6})\b\s*[:.)\-–—]*\s*(.*)", re.IGNORECASE)
_STEP = re.compile(r"Step\s+(\d{1,6})\b\s*[:.)\-–—]*\s*(.*)", re.IGNORECASE)
_STEPS = (
    "steps",
    "execution steps",
    "instructions",
    "actions",
    "procedure",
    "execution",
    "commands",
    "what to do",
)
_ARTIFACTS = (
    "artifacts",
    "artifacts to produce",
    "deliverables",
    "key deliverables",
    "phase deliverables",
    "task deliverables",
    "outputs",
    "produces",
    "expected output",
    "expected outputs",
)
_CRITERIA = ("acceptance criteria", "completion criteria", "exit criteria")
_PURPOSE = ("description", "objective", "purpose", "goal")
_PURPOSE_HEADINGS = (*_PURPOSE, "phase objective", "task objective", "overview")
_SHELLS = frozenset(("bash", "sh", "shell", "console", "zsh"))


class ExecutionStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step; `command` is shell text from a fenced block, as written."""

    step: int
    description: str
    command: str | None = None


class TaskContent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `get_task` answers; encodes without what is not known."""

    title: str
    description: str
    content: str
    """The whole markdown."""
    execution_steps: tuple[ExecutionStep, ...]
    artifacts_to_produce: tuple[str, ...]
    estimated_duration: str | None = None
    acceptance_criteria: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True):
    """One task as its phase lists it; `read_task` tells what is in it."""

    number: int
    name: str
    content: str
    """Its markdown; empty where the definition lists it without a file that is there."""
    file: str | None = None
    """Relative to the workflow's folder, where it has a file of its own."""
    purpose: str = ""
    warning: str = ""
    """Set where the content may not be what the author meant."""


@lru_cache(maxsize=256)
def read_task(task: Task) -> TaskContent:
    """Take a task's markdown apart; raises MarkdownError where it is too large or too deep."""
    outline = parse_markdown(task.content)
    found = _TASK.fullmatch(outline.title)
    title = (found[2] if found else outline.title) or task.name
    return TaskContent(
        title=title,
        description=_purpose(outline) or task.purpose or title,
        content=task.content,
        execution_steps=_numbered([_step(piece) for piece in _pieces(outline)] or list(_commands(outline))),
        artifacts_to_produce=_texts(outline.blocks, _ARTIFACTS),
        estimated_duration=field(outline.blocks, *DURATION) or None,
        acceptance_criteria=_texts(outline.blocks, _CRITERIA),
        warnings=(task.warning,) if task.warning else (),
    )


@lru_cache(maxsize=128)
def find_tasks(markdown: str) -> tuple[Task, ...]:
    """The tasks within a phase's own text: its `### Task M` sections, or else its numbered steps.

    Numbers are the ones written, or, where two are the same, 1, 2, 3... Raises MarkdownError.
    """
    outline = parse_markdown(markdown)
    sections = [
        (int(found[1]), found[2] or section.title, section.markdown)
        for section in outline.sections()
        if section.level > 1 and (found := _TASK.fullmatch(section.title))
    ]
    pieces = sections or [(piece.number, piece.title, piece.markdown) for piece in _pieces(outline)]
    unique = len({number for number, _, _ in pieces}) == len(pieces)
    return tuple(
        Task(number=number if unique else place, name=title, content=content)
        for place, (number, title, content) in enumerate(pieces, 1)
    )


class _Piece(msgspec.Struct, frozen=True):
    """A numbered step, however it was written."""

    number: int
    title: str
    markdown: str


def _pieces(outline: Outline) -> list[_Piece]:
    """`Step N` headings; else the list under a heading such as `Steps`; else the first numbered list."""
    headed = [
        _Piece(int(found[1]), found[2] or _first_paragraph(section.blocks) or section.title, section.markdown)
        for section in outline.sections()
        if (found := _STEP.fullmatch(section.title))
    ]
    if headed:
        return headed
    items = listed(outline.blocks, *_STEPS)
    if not items:
        items = next(
            (block.items for block in outline.blocks if isinstance(block, Items) and block.ordered), ()
        )
    return [
        _Piece(place if item.number is None else item.number, item.text, item.markdown)
        for place, item in enumerate(items, 1)
        if item.text
    ]


def _step(piece: _Piece) -> ExecutionStep:
    blocks = parse_markdown(piece.markdown).blocks
    return ExecutionStep(step=piece.number, description=piece.title, command=_command(blocks))


def _command(blocks: tuple[Block, ...]) -> str | None:
    for block in blocks:
        if isinstance(block, Fence) and block.info in _SHELLS:
            return block.text.strip("\n")
        if isinstance(block, Items):
            for item in block.items:
                for inner in parse_markdown(item.markdown).blocks:
                    if isinstance(inner, Fence) and inner.info in _SHELLS:
                        return inner.text.strip("\n")
    return None


def _commands(outline: Outline) -> Iterator[ExecutionStep]:
    """Without any numbered step: each shell block, told by what stands before it."""
    described = outline.title
    place = 0
    for block in outline.blocks:
        match block:
            case Heading():
                described = plain(block.text)
            case Paragraph():
                described = plain(block.text)
            case Fence() if block.info in _SHELLS:
                place += 1
                yield ExecutionStep(step=place, description=described, command=block.text.strip("\n"))
            case _:
                pass


def _numbered(steps: list[ExecutionStep]) -> tuple[ExecutionStep, ...]:
    """The numbers as written where they rise; else 1, 2, 3..."""
    if all(a.step < b.step for a, b in pairwise(steps)):
        return tuple(steps)
    return tuple(msgspec.structs.replace(step, step=place) for place, step in enumerate(steps, 1))


def _purpose(outline: Outline) -> str:
    if said := field(outline.blocks, *_PURPOSE):
        return said
    for section in outline.sections():
        if section.title.lower() in _PURPOSE_HEADINGS and (text := _first_paragraph(section.blocks)):
            return text
    return _first_paragraph(_before_second_heading(outline.blocks))


def _before_second_heading(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    headings = [index for index, block in enumerate(blocks) if isinstance(block, Heading)]
    return blocks[: headings[1]] if len(headings) > 1 else blocks


def _first_paragraph(blocks: tuple[Block, ...]) -> str:
    """The first that is not made of fields, on one line."""
    for block in blocks:
        if isinstance(block, Paragraph) and not list(fields(block.text)):
            return " ".join(block.text.split())
    return ""


def _texts(blocks: tuple[Block, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item.text for item in listed(blocks, *names) if item.text)
