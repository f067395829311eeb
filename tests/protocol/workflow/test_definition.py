"""Workflow definitions: both shapes of metadata, both layouts of phases, and what breaks them."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpkeep.protocol.workflow.content import phase_content
from mcpkeep.protocol.workflow.definition import (
    BrokenWorkflow,
    DefinitionError,
    DynamicPhases,
    Phase,
    WorkflowDefinition,
    phase_tasks,
)
from mcpkeep.protocol.workflow.expansion import expand
from mcpkeep.protocol.workflow.gate import parse_gate
from mcpkeep.protocol.workflow.listing import Listing, WorkflowSummary, by_category, summarize
from mcpkeep.protocol.workflow.metadata import read_definition
from mcpkeep.protocol.workflow.task import Task, read_task
from mcpkeep.protocol.workflow.verdict import judge

GATE = "checkpoint: {strict: true}\nevidence_schema: {done: {type: boolean}}\n"


def folder(metadata: Mapping[str, object], **files: str | bytes) -> dict[str, bytes]:
    encoded = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    return {"metadata.json": msgspec.json.encode(metadata), **encoded}


GONE = "metadata.json: phase 1, task 2 names 'task-2-gone.md', which is not there"

NEWER: dict[str, object] = {
    "workflow_type": "upgrade_v1",
    "version": "1.0.0",
    "name": "Upgrade Workflow",
    "description": "Upgrades",
    "author": "somebody",
    "category": "operations",
    "total_phases": 2,
    "estimated_duration": "3 minutes",
    "primary_outputs": ["a backup"],
    "target_language": ["any"],
    "tags": "ops",
    "aliases": ["upgrade"],
    "acknowledgment_required": True,
    "phases": [
        {
            "phase_number": 1,
            "phase_name": "Backup",
            "purpose": "keep",
            "estimated_effort": "20 s",
            "requires_restart": True,
            "skippable": True,
            "tasks": [
                {"task_number": 0, "name": "Look", "file": "task-0-look.md", "purpose": "see"},
                {"task_number": 2, "name": "gone", "file": "task-2-gone.md"},
            ],
        },
        {"phase_number": 0, "phase_name": "Checks", "key_deliverables": ["d"], "validation_criteria": ["c"]},
    ],
}


def test_the_newer_metadata_with_a_folder_per_phase_is_read_whole() -> None:
    files = folder(
        NEWER,
        **{
            "phases/1/phase.md": "# Phase 1\n",
            "phases/1/task-0-look.md": "# Task 0: Look\n",
            "phases/1/task-1-copy-all.md": "# Task 1: Copy\n",
            "phases/1/gate-definition.yaml": GATE,
        },
    )
    assert read_definition("upgrade_folder", files) == WorkflowDefinition(
        workflow_type="upgrade_v1",
        name="Upgrade Workflow",
        description="Upgrades",
        version="1.0.0",
        category="operations",
        estimated_duration="3 minutes",
        target_languages=("any",),
        artifacts=("a backup",),
        tags=("ops",),
        aliases=("upgrade", "upgrade_folder"),
        acknowledgment_required=True,
        phases=(
            Phase(
                number=0,
                name="Checks",
                content=(
                    "# Phase 0: Checks\n\n## Key deliverables\n\n- d\n\n## Validation criteria\n\n- [ ] c\n"
                ),
                key_deliverables=("d",),
                validation_criteria=("c",),
            ),
            Phase(
                number=1,
                name="Backup",
                content="# Phase 1\n",
                purpose="keep",
                estimated_effort="20 s",
                requires_restart=True,
                file="phases/1/phase.md",
                tasks=(
                    Task(
                        number=0,
                        name="Look",
                        content="# Task 0: Look\n",
                        file="phases/1/task-0-look.md",
                        purpose="see",
                    ),
                    Task(
                        number=1,
                        name="copy all",
                        content="# Task 1: Copy\n",
                        file="phases/1/task-1-copy-all.md",
                    ),
                    Task(number=2, name="gone", content="", warning=GONE),
                ),
                gate=parse_gate(GATE.encode()),
                warnings=(GONE,),
                extra={"skippable": True},
            ),
        ),
        warnings=(GONE,),
        extra={"author": "somebody"},
    )


def test_the_older_metadata_with_a_file_per_phase_is_read_whole() -> None:
    files = folder(
        {
            "name": "flow_v1",
            "version": 2,
            "phases": [{"number": 1, "name": "One", "estimated_time": "1 h"}, "Two"],
        },
        **{
            "phases/1-the-first.md": "# Phase 1\n### Task 1: A\na\n### Task 2: B\nb\n",
            "phases/2-second.md": "# Phase 2\n\n1. x\n2. y\n",
            "phases/2/gate-definition.yaml": GATE,
        },
    )
    found = read_definition("flow_v1", files)
    assert (found.workflow_type, found.name, found.version, found.aliases) == ("flow_v1", "flow_v1", "2", ())
    assert (found.category, found.estimated_duration, found.description) == ("general", "unknown", "flow_v1")
    assert [(p.number, p.name, p.estimated_effort, p.file, p.gate is None) for p in found.phases] == [
        (1, "One", "1 h", "phases/1-the-first.md", True),
        (2, "Two", "", "phases/2-second.md", False),
    ]
    assert [(task.number, task.name) for task in phase_tasks(found.phases[0])] == [(1, "A"), (2, "B")]
    assert [(task.number, task.name) for task in phase_tasks(found.phases[1])] == [(1, "x"), (2, "y")]


def test_phases_come_from_the_files_where_the_metadata_lists_none() -> None:
    found = read_definition(
        "f",
        folder(
            {}, **{"phases/0-look-around.md": "# L\n", "phases/1/phase.md": "# P\n", "phases/notes.md": ""}
        ),
    )
    assert [(phase.number, phase.name) for phase in found.phases] == [(0, "look around"), (1, "Phase 1")]
    assert (found.first_phase, found.total_phases, found.workflow_type) == (0, 2, "f")
    assert (found.phase(1), found.phase(7)) == (found.phases[1], None)
    assert (found.next_phase(0), found.next_phase(1)) == (found.phases[1], None)


def test_a_listed_task_without_a_file_has_its_section_or_else_its_name_as_content() -> None:
    metadata = {
        "phases": [{"number": 1, "tasks": [{"name": "first-step"}, {"name": "other", "purpose": "why"}]}]
    }
    found = read_definition("f", folder(metadata, **{"phases/1-p.md": "# P\n### Task 1: F\ntext\n"}))
    assert phase_tasks(found.phases[0]) == (
        Task(number=1, name="first step", content="### Task 1: F\ntext\n"),
        Task(number=2, name="other", content="# Task 2: other\n\nwhy\n", purpose="why"),
    )
    assert found.warnings == ()


def test_files_that_the_metadata_names_may_share_their_numbers() -> None:
    listed = ("1-load", "2-make", "1-audit", "2-cover")
    tasks = [{"task_number": n, "file": f"task-{name}.md"} for n, name in enumerate(listed, 1)]
    texts = {f"phases/4/task-{name}.md": f"# {name}\n" for name in listed}
    found = read_definition("f", folder({"phases": [{"phase_number": 4, "tasks": tasks}]}, **texts))
    assert [(task.number, task.name, task.content) for task in phase_tasks(found.phases[0])] == [
        (1, "load", "# 1-load\n"),
        (2, "make", "# 2-make\n"),
        (3, "audit", "# 1-audit\n"),
        (4, "cover", "# 2-cover\n"),
    ]
    assert found.warnings == ()


def test_of_two_unnamed_files_of_a_task_the_first_counts_and_the_other_is_told() -> None:
    found = read_definition("f", folder({}, **{"phases/1/task-1-b.md": "b", "phases/1/task-1-a.md": "a"}))
    assert [(task.number, task.content) for task in phase_tasks(found.phases[0])] == [(1, "a")]
    assert found.warnings == ("phases/1/task-1-b.md: is not used, there is another task 1; renumber one",)


def test_a_task_whose_file_was_renumbered_is_found_by_its_words_and_the_agent_is_told() -> None:
    listed = ("create-directory", "copy-documents", "create-index", "extract-insights")
    tasks = [{"task_number": n, "name": name, "file": f"task-{n}-{name}.md"} for n, name in enumerate(listed)]
    texts = {f"phases/0/task-{n}-{name}.md": f"# Task {n}: {name}\n" for n, name in enumerate(listed, 1)}
    found = read_definition("f", folder({"phases": [{"phase_number": 0, "tasks": tasks}]}, **texts))
    (phase,) = found.phases
    assert [(task.number, task.file) for task in phase_tasks(phase)] == list(enumerate(texts))
    told = tuple(
        f"metadata.json: phase 0, task {n} names 'task-{n}-{name}.md', which is not there; "
        f"'phases/0/task-{n + 1}-{name}.md' stands for it"
        for n, name in enumerate(listed)
    )
    assert found.warnings == phase_content(phase).warnings == told
    assert tuple(read_task(task).warnings for task in phase_tasks(phase)) == tuple((text,) for text in told)


def test_no_task_gets_a_file_that_another_one_names_by_its_words_or_its_number() -> None:
    tasks = [
        {"task_number": 1, "file": "task-9-mine.md"},
        {"task_number": 2, "file": "task-1-mine.md"},
        {"task_number": 3, "file": "task-3-old-words.md"},
    ]
    texts = {"phases/1/task-1-mine.md": "mine", "phases/1/task-3-new-words.md": "new"}
    (phase,) = read_definition("f", folder({"phases": [{"tasks": tasks}]}, **texts)).phases
    assert [(task.number, task.content) for task in phase.tasks or ()] == [(1, ""), (2, "mine"), (3, "new")]
    assert phase.warnings == (
        "metadata.json: phase 1, task 1 names 'task-9-mine.md', which is not there",
        "metadata.json: phase 1, task 3 names 'task-3-old-words.md', which is not there; "
        "'phases/1/task-3-new-words.md' stands for it",
    )


@pytest.mark.parametrize(
    "place",
    ["phases/0", "phases/00", "phases/0-plan", "phases/0_plan", "phases/phase-0", "phases/Phase 0 - Plan"],
)
@pytest.mark.parametrize(
    "names", ["phase.md task-1-x.md gate-definition.yaml", "PHASE.MD TASK-1-x.MD Gate_Definition.YML"]
)
def test_a_phase_s_folder_is_found_with_its_gate_however_it_is_written(place: str, names: str) -> None:
    text, task, gate = (f"{place}/{name}" for name in names.split())
    files = {text: "# P\n", task: "# T\n", gate: GATE}
    phases = [{"phase_number": 0, "phase_name": "Plan", "tasks": [{"file": "task-1-x.md"}]}]
    for metadata in ({}, {"phases": phases}):
        found = read_definition("f", folder(metadata, **files))
        (phase,) = found.phases
        assert (phase.number, phase.file, phase.gate) == (0, text, parse_gate(GATE.encode()))
        assert phase.tasks == (Task(number=1, name="x", content="# T\n", file=task),)
        assert found.warnings == ()


def test_tasks_and_phases_alone_are_known_by_their_number_however_it_is_written() -> None:
    names = [
        "task_1_a_b.md",
        "2-c.md",
        "task3.md",
        "04_d.md",
        "Task 5 - E.md",
        "2025-10-07-notes.md",
        "3rd.md",
    ]
    files = {**{f"phases/0/{name}": name for name in names}, "phases/phase_1_x.md": "P", "phases/2.md": "Q"}
    found = read_definition("f", folder({}, **files))
    assert [(task.number, task.name, task.content) for task in phase_tasks(found.phases[0])] == [
        (1, "a b", "task_1_a_b.md"),
        (2, "c", "2-c.md"),
        (3, "Task 3", "task3.md"),
        (4, "d", "04_d.md"),
        (5, "E", "Task 5 - E.md"),
    ]
    assert [(phase.number, phase.content) for phase in found.phases[1:]] == [(1, "P"), (2, "Q")]


def test_of_two_files_that_mean_the_same_the_plainer_one_counts_and_the_other_is_told() -> None:
    files = {"phases/1-a/phase.md": "a", "phases/1/phase.md": "b", "phases/2-a.md": "A", "phases/2-b.md": "B"}
    found = read_definition("f", folder({}, **files))
    assert [phase.content for phase in found.phases] == ["b", "A"]
    assert found.warnings == (
        "phases/1-a/phase.md: is not used, 'phases/1/phase.md' stands for the same; keep one",
        "phases/2-b.md: is not used, phase 2 is 'phases/2-a.md'; keep one",
    )


def test_names_of_another_system_are_read_as_ours() -> None:
    phases = [{"number": 1, "file": "phases\\1\\text.md", "tasks": [{"file": ".\\task-1-a.md"}]}]
    files = {"phases/1/text.md": "text", "phases/1/task-1-a.md": "a"}
    found = read_definition("f", folder({"phases": phases}, **files))
    assert (found.phases[0].content, found.phases[0].tasks, found.warnings) == (
        "text",
        (Task(number=1, name="a", content="a", file="phases/1/task-1-a.md"),),
        (),
    )


def test_a_wrong_total_is_a_warning_and_the_phases_count() -> None:
    found = read_definition("f", folder({"total_phases": 6, "phases": ["A"]}))
    assert (found.total_phases, found.warnings) == (
        1,
        ("metadata.json: 'total_phases' says 6, and there are 1",),
    )


BROKEN: dict[str, tuple[dict[str, bytes], str]] = {
    "no metadata": ({"phases/1/phase.md": b""}, "metadata.json: is not there"),
    "no JSON": ({"metadata.json": b"{"}, "metadata.json: is not JSON"),
    "a list": ({"metadata.json": b"[]"}, "metadata.json: must be an object"),
    "deep": ({"metadata.json": b'{"phases":' + b"[" * 100_000}, "metadata.json: is not JSON"),
    "too large": ({"metadata.json": b" " * 2_000_000}, "metadata.json: has 2000000 bytes"),
    "huge number": ({"metadata.json": b'{"version": 1e9999}'}, "metadata.json: is not JSON"),
    "no phases": (folder({"name": "f"}), "metadata.json: there are no phases"),
    "too many phases": (folder({"phases": ["A"] * 101}), "there are 101 phases, more than 100"),
    "unknown parser": (
        folder({"total_phases": "dynamic", "dynamic_config": {"parser": "other"}}),
        "parser 'other' is not known",
    ),
}


@pytest.mark.parametrize(("files", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_an_error_with_file_and_reason(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read_definition("f", files)
    assert said in str(caught.value)
    assert str(caught.value) == f"{caught.value.file}: {caught.value.reason}"


def test_numbers_are_taken_as_they_are_meant() -> None:
    tasks = [{"task_number": "1", "name": "a"}, {"task_number": 2.0, "name": "b"}, "task-3-c.md", "d"]
    phases = [{"phase_number": "Phase 0"}, {"phase_number": "01", "tasks": tasks}, {"number": 2.0}]
    found = read_definition("f", folder({"phases": phases}, **{"phases/1/task-3-c.md": "c"}))
    assert [phase.number for phase in found.phases] == [0, 1, 2]
    named = [(task.number, task.name) for task in phase_tasks(found.phases[1])]
    assert (named, found.warnings) == ([(1, "a"), (2, "b"), (3, "c"), (4, "d")], ())


@pytest.mark.parametrize("number", ["1-N", -1, True, 0, 1.5, [], 10_000])
def test_a_phase_of_no_number_of_its_own_is_closed_and_the_others_stand(number: object) -> None:
    files = {f"phases/{n}/gate-definition.yaml": GATE for n in range(3)}
    phases = [{"number": 0}, {"number": number}, {"number": 1}]
    found = read_definition("f", folder({"phases": phases}, **files))
    wrong = f"'phase_number' must be a number of its own from 0, not {number!r}"
    told = f"metadata.json: 'phases', entry 1: {wrong}"
    assert [(p.number, judge(p.gate, {"done": True}).passed, p.warnings) for p in found.phases] == [
        (0, True, ()),
        (1, True, ()),
        (2, False, (f"{told}; it is phase 2, and closed",)),
    ]
    assert summarize(found).error == told


def test_an_entry_that_is_no_phase_is_closed_and_takes_no_other_s_place() -> None:
    found = read_definition("f", folder({"phases": [None, {"number": 1}]}))
    assert [(phase.number, judge(phase.gate, {}).passed) for phase in found.phases] == [(1, True), (2, False)]
    assert "metadata.json: 'phases', entry 0: must be an object, not None" in found.warnings


def test_a_task_whose_number_stands_twice_gets_the_next_free_one() -> None:
    tasks: list[dict[str, object]] = [{"task_number": n, "name": str(n)} for n in (1, 1, 3, "x", 2)]
    (phase,) = read_definition("f", folder({"phases": [{"tasks": tasks}]})).phases
    assert [(task.number, task.name) for task in phase_tasks(phase)] == [
        (1, "1"),
        (2, "2"),
        (3, "3"),
        (4, "1"),
        (5, "x"),
    ]
    assert phase.warnings == (
        "metadata.json: phase 1, task 2: 'task_number' must be a number of its own, not 1; it is task 4",
        "metadata.json: phase 1, task 4: 'task_number' must be a number of its own, not 'x'; it is task 5",
    )


def test_a_member_that_is_plainly_wrong_counts_as_absent_and_is_told() -> None:
    metadata = {
        "workflow_type": "../../x",
        "description": [],
        "acknowledgment_required": "True",
        "tags": {"a": 1},
        "phases": [{"purpose": ["p"], "requires_restart": 3}],
        "dynamic_config": [],
    }
    found = read_definition("f", folder(metadata))
    assert (found.workflow_type, found.description, found.tags) == ("f", "f", ())
    assert (found.acknowledgment_required, found.phases[0].requires_restart) == (True, False)
    assert found.phases[0].purpose == ""
    assert found.warnings == (
        "metadata.json: 'workflow_type' must be letters, digits, '_', '-' and '.', not '../../x'",
        "metadata.json: 'phases', entry 0: 'purpose' must be text, not ['p']",
        "metadata.json: 'phases', entry 0: 'requires_restart' must be true or false, not 3",
        "metadata.json: 'description' must be text, not []",
        "metadata.json: 'tags' must be a list of texts, not {'a': 1}",
    )
    odd = read_definition("f", folder({"phases": "all"}, **{"phases/0/phase.md": "P"}))
    assert ([phase.content for phase in odd.phases], len(odd.warnings)) == (["P"], 1)


def test_thousands_of_odd_entries_are_read_at_once_and_told_in_short() -> None:
    tasks: list[dict[str, object]] = [{"task_number": 1, "file": f"task-1-{n % 50}.md"} for n in range(5_000)]
    tasks[0]["file"], tasks[1]["file"] = "task-1" + "-" * 300_000, "task-" + "0" * 300_000
    files = {f"phases/1/task-2-{n}.md": "" for n in range(900)}
    found = read_definition("f", folder({"phases": [{"tasks": tasks}]}, **files))
    assert len(found.warnings) == len(found.phases[0].warnings) == 100


GATES = {
    "empty": ("", "must be a mapping with 'checkpoint' and 'evidence_schema'"),
    "only a comment": ("# soon\n", "must be a mapping with 'checkpoint' and 'evidence_schema'"),
    "asks nothing": ("validators: {}", "has neither 'checkpoint' nor 'evidence_schema'"),
    "half true": ("checkpoint: {strict: maybe}", "checkpoint: 'strict' must be true or false"),
    "hostile": (
        "checkpoint: {}\nvalidators: {v: 'lambda x: exec(x)'}",
        "validator 'v': function 'exec' is not allowed",
    ),
    "unknown type": ("evidence_schema: {a: {type: bool}}", "field 'a': type must be one of boolean"),
}


@pytest.mark.parametrize(("gate", "said"), GATES.values(), ids=GATES)
@pytest.mark.parametrize("evidence", [{}, {"done": True, "override": {"reason": "r"}}])
def test_a_gate_that_cannot_be_read_closes_its_phase_and_no_other(
    gate: str, said: str, evidence: dict[str, object]
) -> None:
    files = {"phases/1/gate-definition.yaml": GATE, "phases/2/gate-definition.yaml": gate}
    found = read_definition("f", folder({"phases": ["A", "B"]}, **files))
    reason = f"phases/2/gate-definition.yaml: {said}"
    assert judge(found.phases[0].gate, {"done": True}).passed
    verdict = judge(found.phases[1].gate, evidence)
    assert (verdict.passed, verdict.evidence_accepted) == (False, ())
    assert verdict.validation_errors[0].startswith(f"the gate of this phase cannot be read: {reason}")
    assert (found.phases[0].warnings, found.phases[1].warnings) == ((), found.warnings)
    assert found.warnings[0].startswith(reason) and str(summarize(found).error).startswith(reason)
    known = by_category([summarize(found)], "nothing").warning
    assert known == "no workflow has category 'nothing'; there are: general"


def test_the_gate_of_a_spec_s_phases_closes_them_where_it_cannot_be_read() -> None:
    found = read_definition("f", DYNAMIC | {"phases/dynamic/gate-definition.yaml": b""})
    whole = expand(found, source="s", data=SPEC)
    assert [judge(phase.gate, {"done": True}).passed for phase in whole.phases] == [True, False, False]
    assert str(summarize(found).error).startswith("phases/dynamic/gate-definition.yaml: must be")


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"a" * 300_000, "has 300000 bytes"), ("caf\u00e9".encode("latin-1"), "is not UTF-8")],
)
def test_a_text_that_cannot_be_read_is_told_where_it_would_be_shown(text: bytes, said: str) -> None:
    files = {
        "phases/2/phase.md": text,
        "phases/1/task-1-a.md": text,
        "phases/dynamic/phase-template.md": text,
    }
    found = read_definition("f", folder({"phases": ["A", "B"]}, **files))
    (task,) = phase_tasks(found.phases[0])
    assert (task.content, task.warning) == ("# Task 1: a\n", found.warnings[0])
    assert phase_content(found.phases[0]).warnings == (task.warning,)
    assert task.warning.startswith(f"phases/1/task-1-a.md: {said}")
    with pytest.raises(DefinitionError, match=rf"phases/2/phase\.md: {said}"):
        phase_content(found.phases[1])
    assert str(summarize(found).error).startswith(f"phases/2/phase.md: {said}")
    dynamic = read_definition("f", folder({"total_phases": "dynamic"}, **files))
    assert dynamic.dynamic == DynamicPhases()
    assert dynamic.warnings[0].startswith(f"phases/dynamic/phase-template.md: {said}")


ROOT = (
    "workflow_type",
    "name",
    "phases",
    "total_phases",
    "dynamic_config",
    "dynamic_phases",
    "tags",
    "aliases",
)
INNER = ("number", "name", "tasks", "file", "templates", "parser")
MEMBERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("dynamic"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(ROOT), MEMBERS))
def test_any_metadata_is_a_definition_or_our_error(metadata: dict[str, object]) -> None:
    try:
        found = read_definition("f", folder(metadata, **{"phases/1/phase.md": "# P\n1. a\n"}))
    except DefinitionError as error:
        assert error.file == "metadata.json"
    else:
        assert [phase.number for phase in found.phases] == sorted({phase.number for phase in found.phases})


# Phases out of a spec.

TEMPLATE = "# [PHASE_NUMBER]: [PHASE_NAME] [OTHER]\n[TASK_COUNT] [VALIDATION_GATE]"

DYNAMIC = folder(
    {
        "workflow_type": "spec_execution_v1",
        "total_phases": "dynamic",
        "phases": [{"phase_number": 0, "phase_name": "Plan"}, {"phase_number": "1-N", "phase_name": "Rest"}],
        "dynamic_phases": True,
        "dynamic_config": {
            "source_path_key": "spec_path",
            "templates": {"phase": "phases/dynamic/phase-template.md", "task": "phases/dynamic/t.md"},
            "parser": "spec_tasks_parser",
        },
    },
    **{
        "phases/dynamic/phase-template.md": TEMPLATE,
        "phases/dynamic/gate-definition.yaml": GATE,
    },
)
SPEC = b"""## Phase 1: One [TASK_COUNT]
**Objective:** begin
### Task 1.1: A
a
**Phase 1 Validation Gate:**
- [ ] sound
## Phase 2: Two
### Task 2.1: B
"""


def test_a_dynamic_definition_knows_its_fixed_phases_and_where_the_rest_is() -> None:
    found = read_definition("spec_execution_v1", DYNAMIC)
    assert [phase.number for phase in found.phases] == [0]
    assert found.total_phases == "dynamic"
    assert found.dynamic == DynamicPhases(
        phase_template=TEMPLATE,
        gate=parse_gate(GATE.encode()),
    )


def test_a_spec_s_phases_follow_the_fixed_ones_in_the_template_s_words() -> None:
    whole = expand(read_definition("spec_execution_v1", DYNAMIC), source="s/tasks.md", data=SPEC)
    assert (whole.dynamic, whole.total_phases, [phase.number for phase in whole.phases]) == (
        None,
        3,
        [0, 1, 2],
    )
    assert whole.phases[1] == Phase(
        number=1,
        name="One [TASK_COUNT]",
        content="# 1: One [TASK_COUNT] [OTHER]\n1 - [ ] sound",
        purpose="begin",
        validation_criteria=("sound",),
        tasks=(Task(number=1, name="A", content="### Task 1.1: A\na\n", purpose="A"),),
        gate=parse_gate(GATE.encode()),
    )
    assert expand(whole, source="s/tasks.md", data=b"") is whole


def test_a_spec_that_counts_from_zero_moves_up_behind_the_fixed_phases() -> None:
    data = b"## Phase 0: Zero\n### Task 0.1: A\n## Phase 1: One\n### Task 1.1: B\n"
    whole = expand(read_definition("spec_execution_v1", DYNAMIC), source="s", data=data)
    assert [(phase.number, phase.name) for phase in whole.phases] == [(0, "Plan"), (1, "Zero"), (2, "One")]


def test_a_spec_that_cannot_be_read_is_named_in_the_error() -> None:
    with pytest.raises(DefinitionError, match=r"specs/x/tasks\.md: has no phase with tasks"):
        expand(read_definition("spec_execution_v1", DYNAMIC), source="specs/x/tasks.md", data=b"# nothing")


def test_fixed_phases_stand_where_only_the_parser_is_unknown() -> None:
    found = read_definition(
        "f",
        folder(
            {
                "phases": ["A"],
                "dynamic_phases": True,
                "dynamic_config": {"parser": "workflow_definition_parser"},
            }
        ),
    )
    assert (found.total_phases, found.dynamic) == (1, None)
    assert "workflow_definition_parser" in found.warnings[0]


# Listing.


def test_a_workflow_is_listed_with_what_its_definition_has() -> None:
    summary = summarize(read_definition("upgrade_v1", folder(NEWER)))
    assert msgspec.to_builtins(summary) == {
        "workflow_type": "upgrade_v1",
        "name": "Upgrade Workflow",
        "description": "Upgrades",
        "version": "1.0.0",
        "category": "operations",
        "phases": 2,
        "estimated_duration": "3 minutes",
        "target_languages": ("any",),
        "artifacts": ("a backup",),
        "tags": ("ops",),
        "aliases": ("upgrade",),
    }


def test_a_category_chooses_and_an_unknown_one_names_the_known() -> None:
    one = summarize(read_definition("a", folder({"phases": ["A"], "category": "documentation"})))
    broken = summarize(BrokenWorkflow(workflow_type="b", error="metadata.json: is not there"))
    assert isinstance(one, WorkflowSummary)
    assert by_category([one, broken], None) == Listing(workflows=(one, broken))
    assert by_category([one, broken], "documentation") == Listing(workflows=(one,))
    assert by_category([one, broken], "nothing") == Listing(
        workflows=(), warning="no workflow has category 'nothing'; there are: documentation"
    )
