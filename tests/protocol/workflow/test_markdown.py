"""Markdown: outlines, tasks and steps out of texts as people write them, and out of hostile ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpkeep.protocol.workflow.markdown import (
    Fence,
    Heading,
    Item,
    Items,
    MarkdownError,
    Outline,
    Paragraph,
    decode_markdown,
    field,
    listed,
    parse_markdown,
)
from mcpkeep.protocol.workflow.spec_tasks import parse_spec_tasks
from mcpkeep.protocol.workflow.task import ExecutionStep, Task, TaskContent, find_tasks, read_task

HEADED = """# Task 2: Copy the files

**Phase:** 1 (Backup)
**Purpose:** Keep what is there
**Estimated Time:** 8 minutes

---

## 🎯 Objective

Not the first choice.

## Steps

### Step 1: Look around

Then act.

```bash
ls -la
```

### Step 2: Copy

1. in order
2. of size

```python
print("not a command")
```

## Deliverables

- [ ] `MANIFEST.json` ✅
- a copy of
  everything

## Completion Criteria

- [ ] nothing is missing ✅/❌
"""


def test_a_text_is_an_outline_of_blocks_with_their_lines() -> None:
    assert parse_markdown(
        "# A #\n\ntext\nmore\n\n3. x\n   ```sh\n   y\n   ```\n\n~~~ Bash -x\ncode\n~~~\n"
    ) == Outline(
        source="# A #\n\ntext\nmore\n\n3. x\n   ```sh\n   y\n   ```\n\n~~~ Bash -x\ncode\n~~~\n",
        blocks=(
            Heading(level=1, text="A", line=0),
            Paragraph(text="text\nmore", line=2),
            Items(
                ordered=True,
                items=(Item(text="x", markdown="x\n```sh\ny\n```\n", line=5, number=3),),
                line=5,
            ),
            Fence(info="bash", text="code\n", line=10),
        ),
    )


def test_a_section_reaches_to_the_next_heading_of_its_level_and_code_is_no_heading() -> None:
    sections = parse_markdown("# A\n## B\nb\n```\n# no\n```\n### C\nc\n## D\nd\n").sections()
    assert [(section.level, section.title, section.markdown) for section in sections] == [
        (1, "A", "# A\n## B\nb\n```\n# no\n```\n### C\nc\n## D\nd\n"),
        (2, "B", "## B\nb\n```\n# no\n```\n### C\nc\n"),
        (3, "C", "### C\nc\n"),
        (2, "D", "## D\nd\n"),
    ]


def test_fields_and_lists_are_found_by_their_names() -> None:
    blocks = parse_markdown(
        "**Time**: 2 h\n**Empty:**\n\n**Steps:**\n- a\n\ntext\n\n- b\n\n## ✅ Steps\n1. c\n"
    ).blocks
    assert field(blocks, "nothing", "time") == "2 h"
    assert [item.text for item in listed(blocks, "steps")] == ["a", "b", "c"]


def test_steps_under_headings_carry_their_shell_commands() -> None:
    assert read_task(Task(number=2, name="copy", content=HEADED)) == TaskContent(
        title="Copy the files",
        description="Keep what is there",
        content=HEADED,
        execution_steps=(
            ExecutionStep(step=1, description="Look around", command="ls -la"),
            ExecutionStep(step=2, description="Copy"),
        ),
        artifacts_to_produce=("`MANIFEST.json`", "a copy of everything"),
        estimated_duration="8 minutes",
        acceptance_criteria=("nothing is missing",),
    )


@pytest.mark.parametrize(
    ("markdown", "steps"),
    [
        ("**Steps:**\n1. a\n2. b\n   ```sh\n   c\n   ```\n", [(1, "a", None), (2, "b", "c")]),
        ("## Instructions\n\n- a\n- b\n", [(1, "a", None), (2, "b", None)]),
        ("Text.\n\n4. a\n5. b\n", [(4, "a", None), (5, "b", None)]),
        ("### Step 2: b\n### Step 1: a\n", [(1, "b", None), (2, "a", None)]),
        (
            "# T\n\nList them:\n\n```bash\nls\n```\n\n## Then\n\n```sh\nrm x\n```\n",
            [(1, "List them", "ls"), (2, "Then", "rm x")],
        ),
        ("- only\n- bullets\n", []),
        ("", []),
    ],
)
def test_steps_are_found_however_they_are_written(
    markdown: str, steps: list[tuple[int, str, str | None]]
) -> None:
    found = read_task(Task(number=1, name="t", content=markdown)).execution_steps
    assert [(step.step, step.description, step.command) for step in found] == steps


def test_a_task_without_text_is_called_by_its_name() -> None:
    assert read_task(Task(number=1, name="copy files", content="", purpose="why")) == TaskContent(
        title="copy files", description="why", content="", execution_steps=(), artifacts_to_produce=()
    )


def test_a_phase_s_tasks_are_its_task_sections_or_else_its_numbered_steps() -> None:
    assert find_tasks("# Phase 1\n## Tasks\n### Task 1: A\na\n### Task 2 - B\n1. x\n## End\n") == (
        Task(number=1, name="A", content="### Task 1: A\na\n"),
        Task(number=2, name="B", content="### Task 2 - B\n1. x\n"),
    )
    assert find_tasks("# Phase 1\n\n1. first\n2. second\n\n   more\n") == (
        Task(number=1, name="first", content="first\n"),
        Task(number=2, name="second", content="second\n\nmore\n"),
    )
    assert [task.number for task in find_tasks("## Task 1: a\n## Task 1: b\n")] == [1, 2]


SPEC = """# Implementation Tasks

## Phase 1: Foundation (Days 1-2)

**Objective:** Lay the ground.

**Duration:** 2 days

### Task 1.1: Create the module
**Estimated Time:** 2 hours
**Dependencies:** None

**Acceptance Criteria:**
- [ ] it is there
- [x] it imports

### Task 1.2: Register it
**Dependencies:** Task 1.1, Task 0.9

**Steps:**
1. register

---

**Phase 1 Validation Gate:**

Before advancing to Phase 2:
- [ ] all is well

## Phase 2: By check list

- [ ] **Task 2.1**: Do it
  - **Estimated Time**: 1 hour
  - **Acceptance Criteria**:
    - [ ] done

## Validation Gates

### Phase 2 Validation Gate

**Before release:**
- [ ] signed off

## Overview of Phase 3: nothing here
"""


def test_a_spec_s_phases_are_read_in_both_ways_of_writing_them() -> None:
    first, second = parse_spec_tasks(SPEC)
    assert (first.number, first.name, first.description, first.estimated_duration, first.validation_gate) == (
        1,
        "Foundation (Days 1-2)",
        "Lay the ground.",
        "2 days",
        ("all is well",),
    )
    assert [
        (task.number, task.name, task.dependencies, task.acceptance_criteria) for task in first.tasks
    ] == [
        (1, "Create the module", (), ("it is there", "it imports")),
        (2, "Register it", ("Task 1.1", "Task 0.9"), ()),
    ]
    assert first.tasks[1].markdown == (
        "### Task 1.2: Register it\n**Dependencies:** Task 1.1, Task 0.9\n\n**Steps:**\n1. register\n"
    )
    assert (second.name, second.validation_gate) == ("By check list", ("signed off",))
    assert [(task.name, task.estimated_time, task.acceptance_criteria) for task in second.tasks] == [
        ("Do it", "1 hour", ("done",))
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nothing", "no phase with tasks"),
        ("## Phase 1: a\n### Task 1.1: x\n## Phase 1: b\n### Task 1.1: y\n", "two phases 1"),
        ("".join(f"## Phase {n}: a\n### Task 1: x\n" for n in range(101)), "101 phases"),
    ],
)
def test_a_spec_that_makes_no_phases_is_an_error(text: str, said: str) -> None:
    with pytest.raises(MarkdownError, match=said):
        parse_spec_tasks(text)


DEEP = {
    "quotes": ">" * 50_000,
    "quoted lists": "> - " * 2_000 + "x",
    "indented lists": "".join("  " * depth + "- a\n" for depth in range(200)),
    "numbered lists": "1. " * 2_000 + "x",
}
WIDE = {
    "one long line": "a" * 200_000,
    "brackets": "[" * 100_000 + "](" * 40_000,
    "emphasis": "*a_" * 60_000,
    "back ticks": "`" * 200_000,
    "fences": "```\n" * 5_900,
    "short lists": "1) a\n1. b\n" * 2_900,
    "headings": "# a\n## b\n" * 2_900,
    "references": "[a]: b\n" * 5_900,
    "html": "<div>" * 40_000,
    "tabs": "\t" * 200_000,
    "setext": "a\n=\n" * 2_900,
    "nulls": "\0" * 200_000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_what_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(MarkdownError, match="deeper than 32"):
        parse_markdown(text)


@pytest.mark.parametrize("text", WIDE.values(), ids=WIDE)
def test_what_is_merely_large_is_read(text: str) -> None:
    outline = parse_markdown(text)
    assert len(outline.sections()) == sum(isinstance(block, Heading) for block in outline.blocks)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a" * 300_000, "bytes"), (b"\xff\xfe", "not UTF-8")],
)
def test_bytes_that_are_no_text_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(MarkdownError, match=said):
        decode_markdown(data)


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(MarkdownError, match="6000 lines"):
        parse_markdown("- a\n" * 6_000)


def test_line_ends_and_byte_order_marks_make_no_difference() -> None:
    assert decode_markdown(b"\xef\xbb\xbf# A\r\nb\rc\n") == "# A\nb\nc\n"


MARKS = st.text("#*->`~ \n\t1.)[]:Step Task Phase", max_size=300)


@given(MARKS)
def test_any_text_is_read_or_our_error(text: str) -> None:
    try:
        parse_markdown(text).sections()
        find_tasks(text)
        read_task(Task(number=1, name="t", content=text))
        parse_spec_tasks(text)
    except MarkdownError as error:
        assert str(error)
