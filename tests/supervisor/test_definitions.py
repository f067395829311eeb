"""Definitions on a real disk: the search path, edits, links, and what is broken beside what is not."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mcpkeep.protocol.workflow.definition import DefinitionError, OptionMissing, phase_tasks
from mcpkeep.protocol.workflow.task import read_task
from mcpkeep.supervisor.definitions import (
    CacheCounts,
    Definitions,
    WorkflowUnknown,
    search_path,
)
from mcpkeep.supervisor.workflow_files import read_bounded

GATE = "checkpoint: {strict: true}\nevidence_schema: {done: {type: boolean}}\n"


PLACE = ".praxis-os/workflows"


def settled() -> int:
    """A clock so late that no file counts as edited just now."""
    return 2**62


def write(folder: Path, text: str = "# Phase 1\n", gate: str | None = GATE, **metadata: object) -> Path:
    (folder / "phases" / "1").mkdir(parents=True, exist_ok=True)
    (folder / "phases" / "1" / "phase.md").write_text(text)
    (folder / "phases" / "1" / "task-1-go.md").write_text("# Task 1: Go\n\n## Steps\n\n1. go\n")
    if gate is not None:
        (folder / "phases" / "1" / "gate-definition.yaml").write_text(gate)
    (folder / "metadata.json").write_text(json.dumps({"phases": ["Go"], **metadata}))
    return folder


@pytest.fixture
def near(tmp_path: Path) -> Path:
    return tmp_path / "project" / ".praxis-os" / "workflows"


@pytest.fixture
def project(tmp_path: Path, near: Path) -> Path:
    near.mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture
def definitions(project: Path) -> Definitions:
    return Definitions(project, shipped=None, now=settled)


def names(definitions: Definitions) -> dict[str, str | None]:
    return {summary.workflow_type: summary.error for summary in definitions.listing().workflows}


def test_the_nearest_of_three_places_wins(tmp_path: Path, project: Path, near: Path) -> None:
    shipped = tmp_path / "shipped"
    for place in (near, project / "universal" / "workflows", shipped):
        write(place / "all", version=place.name if place == shipped else str(place.parent.name))
    write(project / "universal" / "workflows" / "both", version="universal")
    write(shipped / "both", version="shipped")
    write(shipped / "only", version="shipped")
    found = Definitions(project, shipped=shipped, now=settled).listing().workflows
    assert [(summary.workflow_type, summary.version) for summary in found] == [
        ("all", ".praxis-os"),
        ("both", "universal"),
        ("only", "shipped"),
    ]


def test_no_other_stands_before_a_workflow_that_mcpkeep_conducts(tmp_path: Path, near: Path) -> None:
    shipped = write(tmp_path / "shipped" / "praxis_os_upgrade_v1", version="shipped").parent
    write(near / "praxis_os_upgrade_v1", version="upstream's")
    write(near / "alias", workflow_type="praxis_os_upgrade_v1", version="an alias")
    definitions = Definitions(tmp_path / "project", shipped=shipped, now=settled)
    assert definitions.get("praxis_os_upgrade_v1").version == "shipped"
    assert [summary.version for summary in definitions.listing().workflows] == ["shipped"]


def test_the_older_folder_is_searched_only_without_the_newer(tmp_path: Path) -> None:
    write(tmp_path / ".agent-os" / "workflows" / "old")
    definitions = Definitions(tmp_path, shipped=None, now=settled)
    assert names(definitions) == {"old": None}
    write(tmp_path / ".praxis-os" / "workflows" / "new")
    assert names(definitions) == {"new": None}
    assert search_path(tmp_path)[0] == tmp_path / ".praxis-os" / "workflows"


def test_a_workflow_answers_to_its_name_its_aliases_and_its_folder(
    near: Path, definitions: Definitions
) -> None:
    write(near / "test_generation_v3", aliases=["test_gen_v3"])
    write(near / "creation_v1", workflow_type="creation")
    write(near / "other", aliases=["creation", "test_gen_v3"])
    for name, meant in {
        "test_generation_v3": "test_generation_v3",
        "creation": "creation",
        "creation_v1": "creation",
        "other": "other",
    }.items():
        assert definitions.get(name).workflow_type == meant
    with pytest.raises(WorkflowUnknown, match="did you mean test_generation_v3"):
        definitions.get("test_generation")


def test_an_alias_means_the_nearest_workflow_that_has_it(tmp_path: Path, project: Path, near: Path) -> None:
    shipped = write(tmp_path / "shipped" / "far", aliases=["it"]).parent
    write(near / "close", aliases=["it"])
    assert Definitions(project, shipped=shipped, now=settled).get("it").workflow_type == "close"


def test_what_is_broken_is_listed_with_its_error_and_takes_nothing_down(
    near: Path, definitions: Definitions
) -> None:
    write(near / "good")
    (write(near / "json") / "metadata.json").write_text("{")
    write(near / "gate", gate="checkpoint: {strict: maybe}")
    (near / "no_workflow").mkdir()
    (near / "README.md").write_text("hello")
    errors = names(definitions)
    assert errors.keys() == {"good", "json", "gate"}
    assert errors["good"] is None
    assert str(errors["gate"]).startswith("phases/1/gate-definition.yaml: checkpoint: 'strict'")
    with pytest.raises(DefinitionError, match=r"metadata\.json: is not JSON"):
        definitions.get("json")
    assert definitions.get("good").phases[0].name == "Go"


def test_a_broken_workflow_near_by_hides_the_whole_one_behind_it(
    tmp_path: Path, project: Path, near: Path
) -> None:
    shipped = write(tmp_path / "shipped" / "flow").parent
    (write(near / "flow") / "metadata.json").write_text("{")
    with pytest.raises(DefinitionError):
        Definitions(project, shipped=shipped, now=settled).get("flow")


# Changes.


def edit_phase(flow: Path) -> None:
    (flow / "phases" / "1" / "phase.md").write_text("# Edited\n")


def edit_task(flow: Path) -> None:
    (flow / "phases" / "1" / "task-1-go.md").write_text("# Task 1: Stop\n")


def edit_metadata(flow: Path) -> None:
    (flow / "metadata.json").write_text(json.dumps({"phases": ["Went"]}))


def replace_metadata(flow: Path) -> None:
    (flow / "new.json").write_text(json.dumps({"phases": ["Gone"]}))
    os.replace(flow / "new.json", flow / "metadata.json")


def add_task(flow: Path) -> None:
    (flow / "phases" / "1" / "task-2-more.md").write_text("# Task 2: More\n")


def remove_gate(flow: Path) -> None:
    (flow / "phases" / "1" / "gate-definition.yaml").unlink()


@pytest.mark.parametrize(
    "edit",
    [edit_phase, edit_task, edit_metadata, replace_metadata, add_task, remove_gate],
)
def test_an_edit_is_seen_at_the_next_call_and_what_was_handed_out_stays(
    project: Path, near: Path, edit: object
) -> None:
    flow = write(near / "flow")
    definitions = Definitions(project, shipped=None)
    before = definitions.get("flow")
    assert callable(edit)
    edit(flow)
    after = definitions.get("flow")
    assert after != before
    assert after == Definitions(project, shipped=None).get("flow")
    assert before.phases[0].content == "# Phase 1\n"


def test_an_edit_that_keeps_size_and_time_is_seen(near: Path, definitions: Definitions) -> None:
    path = write(near / "flow") / "phases" / "1" / "phase.md"
    assert definitions.get("flow").phases[0].content == "# Phase 1\n"
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the kernel's clock has moved on
        path.write_text("# Phase 2\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert definitions.get("flow").phases[0].content == "# Phase 2\n"


def test_workflows_come_and_go_while_running(near: Path, definitions: Definitions) -> None:
    assert names(definitions) == {}
    flow = write(near / "flow")
    assert names(definitions) == {"flow": None}
    flow.rename(near / "renamed")
    assert names(definitions) == {"renamed": None}
    with pytest.raises(WorkflowUnknown):
        definitions.get("flow")
    (near / "renamed").rename(near.parent / "away")
    assert names(definitions) == {}


def test_breaking_and_mending_is_seen_in_the_list(near: Path, definitions: Definitions) -> None:
    gate = write(near / "flow") / "phases" / "1" / "gate-definition.yaml"
    assert names(definitions) == {"flow": None}
    gate.write_text("nonsense")
    assert "gate-definition.yaml" in str(names(definitions)["flow"])
    gate.write_text(GATE)
    assert names(definitions) == {"flow": None}


def test_a_broken_text_is_seen_mended_in_the_list(near: Path, definitions: Definitions) -> None:
    flow = write(near / "flow")
    (flow / "phases" / "1" / "phase.md").write_bytes(b"\xff")
    assert names(definitions) == {"flow": "phases/1/phase.md: is not UTF-8: invalid start byte at byte 0"}
    (flow / "phases" / "1" / "phase.md").write_text("# Phase 1\n")
    assert names(definitions) == {"flow": None}


def test_repeated_reads_come_from_the_cache_and_the_counts_say_so(
    near: Path, definitions: Definitions
) -> None:
    for number in range(30):
        write(near / f"flow_{number}")
    first = definitions.listing()
    assert definitions.counts() == CacheCounts(hits=0, misses=30)
    for _ in range(10):
        assert definitions.listing().workflows is first.workflows
    assert definitions.get("flow_7") is definitions.get("flow_7")
    assert definitions.counts() == CacheCounts(hits=302, misses=30)
    assert definitions.counts().hit_rate > 0.9


# In a process of its own: an audit hook stays, and in Python 3.11 two threads that begin at once while the
# coverage is counted can fail in sys.settrace: it lets other threads run in the hook, and refuses them.
OPENED = """if True:
    import sys
    from pathlib import Path
    from mcpkeep.supervisor.definitions import Definitions
    definitions = Definitions(Path(sys.argv[1]), shipped=None, now=lambda: 2**62)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    definitions.listing()
    first = len(opened)
    definitions.listing()
    definitions.get("flow")
    print(*opened[:first], "then:", *opened[first:], sep="\\n")
"""


def test_a_cached_listing_opens_no_file(project: Path, near: Path) -> None:
    write(near / "flow")
    ran = subprocess.run(
        [sys.executable, "-c", OPENED, str(project)], capture_output=True, text=True, check=True
    )
    first, _, second = ran.stdout.partition("then:\n")
    assert str(near / "flow" / "metadata.json") in first.splitlines()
    assert second == ""


def test_a_file_edited_just_now_is_read_again_since_its_time_may_not_tell(project: Path, near: Path) -> None:
    flow = write(near / "flow")
    newest = max(path.stat().st_ctime_ns for path in [flow, *flow.rglob("*"), near])
    times = [newest]
    definitions = Definitions(project, shipped=None, now=lambda: times[-1])
    first = definitions.get("flow")
    assert definitions.get("flow") is not first
    times.append(newest + 10_000_001)
    assert definitions.get("flow") is definitions.get("flow")


# What must not be followed, waited for, or read.


def test_a_link_that_leads_out_breaks_the_workflow_instead_of_opening_its_gate(
    tmp_path: Path, near: Path, definitions: Definitions
) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("# secret\n")
    gate = write(near / "gate", gate=None) / "phases" / "1" / "gate-definition.yaml"
    gate.symlink_to(secret)
    task = write(near / "task") / "phases" / "1" / "task-2-x.md"
    task.symlink_to(secret)
    (write(near / "meta") / "metadata.json").unlink()
    (near / "meta" / "metadata.json").symlink_to(secret)
    (near / "folder").symlink_to(write(tmp_path / "elsewhere"))
    (write(near / "phases") / "phases" / "2").symlink_to(tmp_path)
    (write(near / "dangling") / "phases" / "1" / "task-2-x.md").symlink_to(tmp_path / "nothing")
    errors = names(definitions)
    assert all("leads out of its tree" in str(error) for error in errors.values())
    assert errors.keys() == {"gate", "task", "meta", "folder", "phases", "dangling"}


def test_links_within_the_workspace_are_followed(project: Path, near: Path, definitions: Definitions) -> None:
    near.rmdir()
    near.symlink_to(project / "universal" / "workflows")
    write(project / "universal" / "workflows" / "flow")
    assert names(definitions) == {"flow": None}


def test_a_place_that_is_a_link_out_of_the_workspace_is_told(
    tmp_path: Path, near: Path, definitions: Definitions
) -> None:
    near.rmdir()
    near.symlink_to(write(tmp_path / "outside" / "flow").parent)
    assert names(definitions) == {PLACE: f"{PLACE}: is a link that leads out of the workspace"}


def test_names_in_capitals_are_read_and_what_an_editor_hides_is_not(
    near: Path, definitions: Definitions
) -> None:
    phase = write(near / "flow") / "phases" / "1"
    (phase / "task-1-go.md").rename(phase / "TASK-1-go.MD")
    (phase / "gate-definition.yaml").rename(phase / "GATE-DEFINITION.YAML")
    (phase / ".#phase.md").symlink_to("somebody@somewhere.4711:1700000000")
    found = definitions.get("flow").phases[0]
    assert (found.gate is not None, [task.file for task in phase_tasks(found)]) == (
        True,
        ["phases/1/TASK-1-go.MD"],
    )


def test_a_pipe_in_place_of_a_file_does_not_make_anything_wait(near: Path, definitions: Definitions) -> None:
    flow = write(near / "flow")
    os.mkfifo(flow / "phases" / "1" / "task-2-wait.md")
    assert "not a regular file" in str(names(definitions)["flow"])


def test_a_file_without_end_is_read_up_to_the_limit_only(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"a" * 1_000)
    assert len(read_bounded(str(tmp_path / "large"), 10)) == 11
    with pytest.raises(OSError, match="not a regular file"):
        read_bounded("/dev/zero")


def test_thousands_of_files_are_an_error_and_not_a_long_wait(near: Path, definitions: Definitions) -> None:
    flow = write(near / "flow")
    for number in range(1_001):
        (flow / "phases" / f"{number}-x.md").touch()
    assert names(definitions) == {"flow": "phases: has more than 1000 entries"}
    for number in range(301):
        (near / f"x{number:03}").mkdir()
    assert "more than 300 entries" in str(names(definitions)[PLACE])


def test_a_file_in_place_of_the_folder_is_told(near: Path, definitions: Definitions) -> None:
    near.rmdir()
    near.write_text("not a folder")
    assert "cannot be read" in str(names(definitions)[PLACE])


# Phases out of a spec.

SPEC = "## Phase 1: One\n### Task 1.1: A\n\n**Steps:**\n1. do it\n"


@pytest.fixture
def dynamic(near: Path, project: Path) -> Path:
    write(near / "spec_execution_v1", total_phases="dynamic", phases=[{"number": 0, "name": "Plan"}])
    (project / "specs" / "one").mkdir(parents=True)
    (project / "specs" / "one" / "tasks.md").write_text(SPEC)
    return project / "specs" / "one" / "tasks.md"


@pytest.mark.parametrize("path", ["specs/one", "specs/one/", "specs/one/tasks.md", "./specs/../specs/one"])
def test_the_option_names_the_spec_s_folder_or_its_file(
    dynamic: Path, definitions: Definitions, path: str
) -> None:
    assert dynamic.is_file()
    whole = definitions.resolve("spec_execution_v1", {"spec_path": path})
    assert [(phase.number, phase.name) for phase in whole.phases] == [(0, "Plan"), (1, "One")]
    assert read_task(phase_tasks(whole.phases[1])[0]).execution_steps[0].description == "do it"


def test_an_edited_spec_is_seen_and_an_unchanged_one_comes_from_the_cache(
    dynamic: Path, definitions: Definitions
) -> None:
    options = {"spec_path": "specs/one"}
    first = definitions.resolve("spec_execution_v1", options)
    assert definitions.resolve("spec_execution_v1", options) is first
    dynamic.write_text(SPEC + "## Phase 2: Two\n### Task 2.1: B\n")
    assert definitions.resolve("spec_execution_v1", options).total_phases == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "must name the spec's folder"),
        ({"spec_path": 1}, "must name the spec's folder"),
        ({"spec_path": "a\0b"}, "must name the spec's folder"),
        ({"spec_path": "../outside"}, "leads out of the workspace"),
        ({"spec_path": "/etc"}, "leads out of the workspace"),
        ({"spec_path": "specs/link"}, "leads out of the workspace"),
        ({"spec_path": "specs"}, "there is no tasks.md"),
    ],
)
def test_an_option_that_leads_to_no_spec_is_the_caller_s_error(
    dynamic: Path, definitions: Definitions, options: dict[str, object], said: str
) -> None:
    (dynamic.parent.parent / "link").symlink_to("/etc")
    with pytest.raises(OptionMissing, match=said):
        definitions.resolve("spec_execution_v1", options)


def test_a_spec_that_cannot_be_read_is_the_spec_s_error(dynamic: Path, definitions: Definitions) -> None:
    dynamic.write_text("# nothing")
    with pytest.raises(DefinitionError, match=r"specs/one/tasks\.md: has no phase with tasks"):
        definitions.resolve("spec_execution_v1", {"spec_path": "specs/one"})


def test_a_fixed_workflow_needs_no_options(near: Path, definitions: Definitions) -> None:
    write(near / "flow")
    assert definitions.resolve("flow", {}) is definitions.get("flow")


# The rest.


def test_many_threads_may_ask_at_once(project: Path, near: Path) -> None:
    for number in range(5):
        write(near / f"flow_{number}")
    definitions = Definitions(project, shipped=None)
    found: list[int] = []

    def ask() -> None:
        for _ in range(20):
            found.append(len(definitions.listing().workflows))
            definitions.get("flow_3")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5] * 80


def test_parsers_are_imported_only_when_there_is_something_to_parse() -> None:
    program = (
        "import sys; from pathlib import Path; from mcpkeep.supervisor.definitions import Definitions;"
        "Definitions(Path('/nonexistent'), shipped=None).listing();"
        "print(sorted({'yaml', 'markdown_it', 'simpleeval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
