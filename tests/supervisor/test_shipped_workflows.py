"""The workflows that ship with the package: whole, at one with themselves, true to what mcpkeep offers."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest
import yaml

import mcpkeep.supervisor
from mcpkeep.protocol.config import ConfigFile, resolve
from mcpkeep.protocol.workflow.gate import parse_gate
from mcpkeep.protocol.workflow.verdict import judge

WORKFLOWS = Path(mcpkeep.supervisor.__path__[0]) / "workflows"
NAMES = ("praxis_os_upgrade_v1", "spec_creation_v1", "test_generation_v3")


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIONS = words(
    "list_workflows start get_phase get_task complete_phase get_state list_sessions get_session "
    "delete_session pause resume retry_phase rollback get_errors"
)
ARGUMENTS = words(
    "action session_id workflow_type target_file options phase task_number evidence category status reason "
    "checkpoint_note reset_evidence to_phase"
)
KEEP_ACTIONS = words("status restart logs plan upgrade resolve rollback backups verify report")
KEEP_ARGUMENTS = words("action source_path plan_id decisions")
COMMANDS = words("run demo workflow plan upgrade rollback backups verify report")
FLAGS = words("--source --dry-run --content-only --server-only --yes --on-conflict --json --to --abort")

FUNCTIONS = words("len isinstance min max abs sum any all sorted str int float bool round")
ATTRIBUTES = words("get keys values items startswith endswith")
SYNTAX = (
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add),
    *(ast.Compare, ast.Eq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In),
    *(ast.Call, ast.Attribute, ast.Name, ast.Load, ast.Constant),
)

EVIDENCE: dict[int, dict[str, str]] = {
    0: {
        "source_path": "string",
        "source_version": "string",
        "source_commit": "string",
        "source_git_clean": "boolean",
        "target_exists": "boolean",
        "target_structure_valid": "boolean",
        "disk_space_available": "string",
        "disk_space_required": "string",
        "no_concurrent_workflows": "boolean",
    },
    1: {
        "backup_path": "string",
        "backup_timestamp": "string",
        "files_backed_up": "integer",
        "backup_size_bytes": "integer",
        "backup_manifest": "string",
        "integrity_verified": "boolean",
        "lock_acquired": "boolean",
    },
    2: {
        "safe_upgrade_executed": "boolean",
        "dry_run_preview": "object",
        "actual_upgrade": "object",
        "version_updated": "string",
        "update_log_appended": "boolean",
    },
    3: {
        "mcp_server_copied": "boolean",
        "files_copied": "integer",
        "checksums_verified": "boolean",
        "dependencies_installed": "boolean",
        "post_install_steps": "list",
        "server_restarted": "boolean",
        "server_restart_time": "string",
        "server_health_check": "string",
    },
    4: {
        "server_version": "string",
        "tools_registered": "integer",
        "expected_tools": "integer",
        "browser_tools_enabled": "boolean",
        "browser_smoke_test": "string",
        "rag_search_test": "string",
        "workflow_engine_test": "string",
        "file_watchers_active": "boolean",
        "rag_index_current": "boolean",
        "unit_tests_passed": "boolean",
        "validation_report": "string",
    },
    5: {
        "lock_released": "boolean",
        "old_backups_archived": "integer",
        "upgrade_summary": "string",
        "installation_summary_updated": "boolean",
        "update_log_appended": "boolean",
        "git_changes_committed": "boolean",
    },
}
"""Phase0Evidence to Phase5Evidence: fields and types, in their order."""

GOOD: dict[int, dict[str, object]] = {
    0: {
        "source_path": "/home/ada/src/praxis-os",
        "source_version": "1.2.0",
        "source_commit": "abc123def0",
        "source_git_clean": True,
        "target_exists": True,
        "target_structure_valid": True,
        "disk_space_available": "2.5 GB",
        "disk_space_required": "500 MB",
        "no_concurrent_workflows": True,
    },
    1: {
        "backup_path": ".praxis-os/.backups/2025-10-08-103045/",
        "backup_timestamp": "2025-10-08T10:30:45Z",
        "files_backed_up": 487,
        "backup_size_bytes": 47483648,
        "backup_manifest": ".praxis-os/.backups/2025-10-08-103045/MANIFEST.json",
        "integrity_verified": True,
        "lock_acquired": True,
    },
    2: {
        "safe_upgrade_executed": True,
        "dry_run_preview": {
            "new_files": 3,
            "updated_files": 12,
            "unchanged_files": 145,
            "conflicts": 1,
            "local_only": 2,
        },
        "actual_upgrade": {"new_files": 3, "updated_files": 12, "conflicts_resolved": 1, "user_prompts": 1},
        "version_updated": "1.2.0",
        "update_log_appended": True,
    },
    3: {
        "mcp_server_copied": True,
        "files_copied": 42,
        "checksums_verified": True,
        "dependencies_installed": True,
        "post_install_steps": [
            {
                "command": "playwright install chromium",
                "status": "success",
                "size_downloaded": "129.7 MB",
            }
        ],
        "server_restarted": True,
        "server_restart_time": "2025-10-08T10:32:15Z",
        "server_health_check": "passed",
    },
    4: {
        "server_version": "1.2.0",
        "tools_registered": 8,
        "expected_tools": 8,
        "browser_tools_enabled": True,
        "browser_smoke_test": "passed",
        "rag_search_test": "passed",
        "workflow_engine_test": "passed",
        "file_watchers_active": True,
        "rag_index_current": True,
        "unit_tests_passed": True,
        "validation_report": ".praxis-os/.cache/upgrade-validation-2025-10-08.json",
    },
    5: {
        "lock_released": True,
        "old_backups_archived": 2,
        "upgrade_summary": ".praxis-os/.cache/upgrade-summary-2025-10-08.md",
        "installation_summary_updated": True,
        "update_log_appended": True,
        "git_changes_committed": False,
    },
}

BAD: list[tuple[int, dict[str, object]]] = [
    (0, {"source_path": "../praxis-os"}),
    (0, {"source_path": "/home/ada/../praxis-os"}),
    (0, {"source_version": ""}),
    (0, {"source_commit": "abc"}),
    (0, {"source_git_clean": False}),
    (0, {"target_exists": False}),
    (0, {"target_structure_valid": False}),
    (0, {"disk_space_available": 2}),
    (0, {"no_concurrent_workflows": False}),
    (1, {"backup_path": "/tmp/elsewhere"}),
    (1, {"backup_timestamp": "yesterday"}),
    (1, {"files_backed_up": 0}),
    (1, {"files_backed_up": True}),
    (1, {"backup_size_bytes": 0}),
    (1, {"backup_manifest": ".praxis-os/.backups/2025-10-07-000000/MANIFEST.json"}),
    (1, {"backup_manifest": ".praxis-os/.backups/2025-10-08-103045/notes.txt"}),
    (1, {"integrity_verified": False}),
    (1, {"lock_acquired": False}),
    (2, {"safe_upgrade_executed": False}),
    (2, {"dry_run_preview": {"new_files": 3}}),
    (
        2,
        {"actual_upgrade": {"new_files": 3, "updated_files": 12, "conflicts_resolved": 0, "user_prompts": 0}},
    ),
    (
        2,
        {"actual_upgrade": {"new_files": 9, "updated_files": 12, "conflicts_resolved": 1, "user_prompts": 0}},
    ),
    (2, {"version_updated": ""}),
    (2, {"update_log_appended": False}),
    (3, {"mcp_server_copied": False}),
    (3, {"files_copied": 0}),
    (3, {"files_copied": -1}),
    (3, {"checksums_verified": False}),
    (3, {"dependencies_installed": False}),
    (3, {"post_install_steps": "none"}),
    (3, {"server_restarted": False}),
    (3, {"server_restarted": False, "server_restart_time": ""}),
    (3, {"server_restart_time": ""}),
    (3, {"server_health_check": "failed"}),
    (4, {"server_version": ""}),
    (4, {"tools_registered": 0, "expected_tools": 0}),
    (4, {"tools_registered": 7}),
    (4, {"browser_smoke_test": "skipped"}),
    (4, {"browser_smoke_test": "failed", "browser_tools_enabled": False}),
    (4, {"rag_search_test": "failed"}),
    (4, {"workflow_engine_test": "failed"}),
    (4, {"file_watchers_active": False}),
    (4, {"rag_index_current": False}),
    (4, {"unit_tests_passed": False}),
    (4, {"validation_report": ""}),
    (5, {"lock_released": False}),
    (5, {"old_backups_archived": -1}),
    (5, {"upgrade_summary": ""}),
    (5, {"installation_summary_updated": False}),
    (5, {"update_log_appended": False}),
    (5, {"git_changes_committed": "no"}),
]

ALSO_GOOD: list[tuple[str, int, dict[str, object]]] = [
    (
        "server_only writes no content",
        2,
        {
            "safe_upgrade_executed": False,
            "actual_upgrade": {
                "new_files": 0,
                "updated_files": 0,
                "conflicts_resolved": 0,
                "user_prompts": 0,
            },
        },
    ),
    (
        "content_only installs no server",
        3,
        {
            "mcp_server_copied": False,
            "files_copied": 0,
            "server_restarted": False,
            "server_restart_time": "",
        },
    ),
    ("content_only may restart", 3, {"mcp_server_copied": False, "files_copied": 0}),
    ("more tools than proven", 4, {"tools_registered": 9}),
    ("no browser", 4, {"browser_tools_enabled": False, "browser_smoke_test": "skipped"}),
    (
        "no search",
        4,
        {"rag_search_test": "skipped", "file_watchers_active": False, "rag_index_current": False},
    ),
    ("nothing to install", 3, {"post_install_steps": []}),
]


class TaskEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    task_number: int
    name: str
    file: str


class PhaseEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    phase_number: int
    phase_name: str
    file: str
    purpose: str
    estimated_effort: str
    key_deliverables: list[str]
    validation_criteria: list[str]
    requires_restart: bool = False
    tasks: list[TaskEntry] = []


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workflow_type: str
    name: str
    version: str
    description: str
    category: str
    total_phases: int
    estimated_duration: str
    phases: list[PhaseEntry]
    artifacts: list[str]
    tags: list[str]
    target_languages: list[str]
    options: dict[str, str]
    aliases: list[str] = []


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    strict: bool
    allow_override: bool


class EvidenceField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    required: bool
    description: str
    validator: str | None = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: str
    error_message: str


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checkpoint: Checkpoint
    evidence_schema: dict[str, EvidenceField]
    validators: dict[str, str] = {}
    cross_field_validation: list[Rule] = []


def read_metadata(name: str) -> Metadata:
    return msgspec.json.decode((WORKFLOWS / name / "metadata.json").read_bytes(), type=Metadata)


def read_gate(name: str, phase: int) -> Gate:
    path = WORKFLOWS / name / "phases" / str(phase) / "gate-definition.yaml"
    return msgspec.convert(yaml.safe_load(path.read_text()), Gate)


PHASES = [(name, phase.phase_number, phase.file) for name in NAMES for phase in read_metadata(name).phases]
TEXTS = sorted(str(path.relative_to(WORKFLOWS)) for path in WORKFLOWS.rglob("*.md"))


def test_the_folders_are_the_workflows_that_ship() -> None:
    assert tuple(sorted(path.name for path in WORKFLOWS.iterdir())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_complete_and_every_file_it_names_is_there(name: str) -> None:
    found = read_metadata(name)
    folder = WORKFLOWS / name
    assert found.workflow_type == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", found.version)
    assert found.total_phases == len(found.phases)
    first = found.phases[0].phase_number
    assert first in (0, 1)
    assert [p.phase_number for p in found.phases] == list(range(first, first + len(found.phases)))
    for phase in found.phases:
        assert (folder / phase.file).is_file()
        assert phase.purpose and phase.estimated_effort and phase.key_deliverables
        assert phase.validation_criteria
        assert [t.task_number for t in phase.tasks] == list(range(1, len(phase.tasks) + 1))
        for task in phase.tasks:
            path = folder / "phases" / str(phase.phase_number) / task.file
            assert path.read_text().splitlines()[0] == f"# Task {task.task_number}: {task.name}"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_ships_that_nothing_leads_to(name: str) -> None:
    folder = WORKFLOWS / name
    expected = {folder / "metadata.json"}
    for phase in read_metadata(name).phases:
        number = str(phase.phase_number)
        expected |= {folder / phase.file, folder / "phases" / number / "gate-definition.yaml"}
        expected |= {folder / "phases" / number / task.file for task in phase.tasks}
    if name == "praxis_os_upgrade_v1":
        documents = (
            "rollback-procedure",
            "troubleshooting",
            "validation-criteria",
            "mcp-server-update-guide",
        )
        expected |= {folder / "supporting-docs" / f"{document}.md" for document in documents}
        expected.add(folder / "README.md")
    assert {path for path in folder.rglob("*") if path.is_file()} == expected


def test_the_general_workflows_are_found_under_the_names_and_categories_that_people_know() -> None:
    tests, spec = read_metadata("test_generation_v3"), read_metadata("spec_creation_v1")
    assert (tests.category, tests.aliases, tests.phases[0].phase_number) == (
        "code_generation",
        ["test_gen_v3"],
        1,
    )
    assert spec.category == "documentation"
    required = {
        name: field.type
        for name, field in read_gate("test_generation_v3", 1).evidence_schema.items()
        if field.required
    }
    assert required == {"code_structure": "object", "test_candidates": "list"}


@pytest.mark.parametrize(
    ("file", "least", "most"),
    [
        ("0-pre-flight-checks.md", 80, 120),
        ("1-backup-preparation.md", 80, 120),
        ("2-content-upgrade.md", 80, 120),
        ("3-mcp-server-upgrade.md", 100, 140),
        ("4-post-upgrade-validation.md", 80, 120),
        ("5-cleanup-documentation.md", 60, 100),
    ],
)
def test_upgrade_phase_files_are_as_long_as_was_asked(file: str, least: int, most: int) -> None:
    lines = (WORKFLOWS / "praxis_os_upgrade_v1" / "phases" / file).read_text().splitlines()
    assert least <= len(lines) <= most


@pytest.mark.parametrize(("name", "number", "file"), PHASES)
def test_a_phase_file_has_its_sections_in_order(name: str, number: int, file: str) -> None:
    text = (WORKFLOWS / name / file).read_text()
    title = next(p.phase_name for p in read_metadata(name).phases if p.phase_number == number)
    assert text.startswith(f"# Phase {number}: {title}\n")
    wanted = ["Objective", "Prerequisites", "Tasks", "Validation Gate", "Exit Criteria", "If It Fails"]
    if name == "praxis_os_upgrade_v1":
        wanted.insert(2, "Commands")
        if number == 3:
            wanted[3:3] = ["State Persistence", "Resume"]
    assert re.findall(r"(?m)^## (.+)$", text) == wanted


def task_texts() -> Iterator[tuple[str, str, list[str]]]:
    """Where a task stands, its number and its lines."""
    for name, number, file in PHASES:
        text = (WORKFLOWS / name / file).read_text()
        for section in re.split(r"(?m)^(?=### )", text)[1:]:
            body = re.split(r"(?m)^## ", section)[0]
            found = re.match(r"### Task (\d+): \S", body)
            assert found is not None, f"{name} {file}: {body[:40]!r}"
            yield f"{name}/{number}", found[1], body.splitlines()
    for path in sorted(WORKFLOWS.rglob("task-*.md")):
        text = path.read_text().replace("## Steps\n", "**Steps:**\n")
        text = text.replace("## Deliverables\n", "**Deliverables:**\n")
        yield str(path.relative_to(WORKFLOWS)), path.name.split("-")[1], text.splitlines()


@pytest.mark.parametrize(("place", "number", "lines"), list(task_texts()))
def test_a_task_has_a_time_numbered_steps_and_deliverables(place: str, number: str, lines: list[str]) -> None:
    assert place and int(number) > 0
    assert any(re.match(r"\*\*Estimated time:\*\* \d", line) for line in lines)
    steps, deliverables = lines.index("**Steps:**"), lines.index("**Deliverables:**")
    numbered = [found[1] for line in lines[steps:deliverables] if (found := re.match(r"(\d+)\. \S", line))]
    assert len(numbered) >= 2
    assert numbered == [str(place) for place in range(1, len(numbered) + 1)]
    assert any(line.startswith("- `") for line in lines[deliverables:])


@pytest.mark.parametrize("name", NAMES)
def test_tasks_within_a_phase_are_numbered_from_one(name: str) -> None:
    found: dict[str, list[int]] = {}
    for place, number, _ in task_texts():
        if place.startswith(name) and not place.endswith(".md"):
            found.setdefault(place, []).append(int(number))
    for numbers in found.values():
        assert numbers == list(range(1, len(numbers) + 1))
    if name == "test_generation_v3":
        assert found == {} and all(phase.tasks for phase in read_metadata(name).phases)
    else:
        assert len(found) == 6


# Gates.


@pytest.mark.parametrize(("name", "number", "file"), PHASES)
def test_a_gate_is_strict_and_its_phase_file_lists_the_same_fields(name: str, number: int, file: str) -> None:
    gate = read_gate(name, number)
    assert gate.checkpoint == Checkpoint(strict=True, allow_override=False)
    assert {field.validator for field in gate.evidence_schema.values()} - {None} == set(gate.validators)
    assert all(field.description for field in gate.evidence_schema.values())
    text = (WORKFLOWS / name / file).read_text()
    section = text.split("## Validation Gate\n")[1].split("\n## ")[0]
    listed = dict(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", section))
    assert listed == {key: field.type for key, field in gate.evidence_schema.items()}


@pytest.mark.parametrize("number", EVIDENCE)
def test_upgrade_gates_ask_for_the_evidence_shapes_and_nothing_else(number: int) -> None:
    schema = read_gate("praxis_os_upgrade_v1", number).evidence_schema
    assert [(name, field.type) for name, field in schema.items()] == list(EVIDENCE[number].items())
    assert [name for name, field in schema.items() if not field.required] == (
        ["unit_tests_passed"] if number == 4 else []
    )


@pytest.mark.parametrize(("name", "number", "file"), PHASES)
def test_gate_expressions_are_lambdas_of_one_value_within_the_fence(
    name: str, number: int, file: str
) -> None:
    del file
    gate = read_gate(name, number)
    for source in [*gate.validators.values(), *(rule.rule for rule in gate.cross_field_validation)]:
        tree = ast.parse(source, mode="eval").body
        assert isinstance(tree, ast.Lambda)
        (parameter,) = (argument.arg for argument in tree.args.args)
        called = {id(node.func) for node in ast.walk(tree.body) if isinstance(node, ast.Call)}
        for node in ast.walk(tree.body):
            assert isinstance(node, SYNTAX), f"{type(node).__name__} in {source}"
            if isinstance(node, ast.Name):
                assert node.id == parameter or (node.id in FUNCTIONS and id(node) in called)
            if isinstance(node, ast.Attribute):
                assert node.attr in ATTRIBUTES and id(node) in called


def refusals(name: str, number: int, evidence: Mapping[str, object]) -> list[str]:
    """What the gate refuses: names of missing fields, then what is wrong with the others."""
    gate = parse_gate((WORKFLOWS / name / "phases" / str(number) / "gate-definition.yaml").read_bytes())
    verdict = judge(gate, evidence)
    assert verdict.passed != bool(verdict.missing_evidence or verdict.validation_errors)
    return [*verdict.missing_evidence, *verdict.validation_errors]


@pytest.mark.parametrize("number", GOOD)
def test_measured_evidence_passes_and_each_missing_field_is_named(number: int) -> None:
    assert refusals("praxis_os_upgrade_v1", number, GOOD[number]) == []
    for name, field in read_gate("praxis_os_upgrade_v1", number).evidence_schema.items():
        rest = {key: value for key, value in GOOD[number].items() if key != name}
        assert refusals("praxis_os_upgrade_v1", number, rest) == ([name] if field.required else [])


@pytest.mark.parametrize(("number", "change"), BAD)
def test_evidence_of_a_bad_upgrade_is_refused(number: int, change: dict[str, object]) -> None:
    assert refusals("praxis_os_upgrade_v1", number, {**GOOD[number], **change}) != []


@pytest.mark.parametrize(("case", "number", "change"), ALSO_GOOD)
def test_evidence_of_an_unusual_but_good_upgrade_passes(
    case: str, number: int, change: dict[str, object]
) -> None:
    assert case
    assert refusals("praxis_os_upgrade_v1", number, {**GOOD[number], **change}) == []


def test_a_whole_or_partial_phase_one_of_test_generation_is_told_apart() -> None:
    whole = {"code_structure": {"f": {}}, "test_candidates": ["f refuses text"]}
    assert refusals("test_generation_v3", 1, whole) == []
    assert refusals("test_generation_v3", 1, {"code_structure": {"f": {}}}) == ["test_candidates"]
    empty = refusals("test_generation_v3", 1, {"code_structure": {}, "test_candidates": []})
    assert [("code_structure" in text, "test_candidates" in text) for text in empty] == [
        (True, False),
        (False, True),
    ]


# What the texts say.


def python_calls(text: str) -> Iterator[ast.Call]:
    """Every call of our two tools that a text shows, in fenced blocks and within lines."""
    fenced = re.findall(r"(?ms)^ *```python\n(.*?)^ *```$", text)
    rest = re.sub(r"(?ms)^ *```\w*\n.*?^ *```$", "", text)
    inline = re.findall(r"`((?:pos_workflow|mcpkeep)\([^`]*\))`", rest)
    for source in [*fenced, *(" ".join(code.split()) for code in inline)]:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                yield node


def shell_commands(text: str) -> Iterator[list[str]]:
    """Words of every mcpkeep command that a text shows."""
    fenced = re.findall(r"(?ms)^ *```bash\n(.*?)^ *```$", text)
    rest = re.sub(r"(?ms)^ *```\w*\n.*?^ *```$", "", text)
    for line in [*"\n".join(fenced).splitlines(), *re.findall(r"`([^`\n]*)`", rest)]:
        found = line.split("#")[0].split()
        if found[:1] == ["mcpkeep"] and len(found) > 1:
            yield found[1:]


@pytest.mark.parametrize("file", TEXTS)
def test_tool_calls_in_the_texts_name_actions_and_arguments_that_exist(file: str) -> None:
    for found in python_calls((WORKFLOWS / file).read_text()):
        assert isinstance(found.func, ast.Name)
        keywords = {keyword.arg: keyword.value for keyword in found.keywords}
        action = cast(str, ast.literal_eval(keywords["action"]))
        match found.func.id:
            case "pos_workflow":
                assert action in ACTIONS and set(keywords) <= ARGUMENTS
            case "mcpkeep":
                assert action in KEEP_ACTIONS and set(keywords) <= KEEP_ARGUMENTS
            case other:
                pytest.fail(f"{other} is none of our tools")


@pytest.mark.parametrize("file", TEXTS)
def test_commands_in_the_texts_exist(file: str) -> None:
    for command, *rest in shell_commands((WORKFLOWS / file).read_text()):
        assert command in COMMANDS
        if command == "workflow":
            assert rest[0] in ACTIONS
            assert {word.split("=")[0] for word in rest if re.match(r"\w+=", word)} <= ARGUMENTS
        flags = {word for word in rest if word.startswith("--")}
        assert flags <= FLAGS, f"{command}: {flags - FLAGS}"


def test_the_texts_show_the_calls_that_a_person_needs() -> None:
    upgrade = WORKFLOWS / "praxis_os_upgrade_v1"
    texts = [path.read_text() for path in upgrade.rglob("*.md")]
    shown = {found[0] for text in texts for found in shell_commands(text)}
    assert shown >= {"plan", "upgrade", "rollback", "backups", "verify", "report", "workflow"}
    for number, file in ((n, f) for name, n, f in PHASES if name == "praxis_os_upgrade_v1"):
        completed = [
            ast.literal_eval(keyword.value)
            for found in python_calls((upgrade / file).read_text())
            for keyword in found.keywords
            if keyword.arg == "phase"
        ]
        assert number in completed


def test_evidence_shown_in_the_texts_passes_the_gate_of_its_phase() -> None:
    shown: list[tuple[str, int]] = []
    for name, number, file in PHASES:
        for found in python_calls((WORKFLOWS / name / file).read_text()):
            keywords = {keyword.arg: keyword.value for keyword in found.keywords}
            evidence = cast("dict[str, object]", ast.literal_eval(keywords.get("evidence", ast.Dict([], []))))
            if evidence:
                assert ast.literal_eval(keywords["phase"]) == number
                assert refusals(name, number, evidence) == []
                shown.append((name, number))
    assert shown == [("test_generation_v3", number) for number in range(1, 7)]


@pytest.mark.parametrize("file", [file for file in TEXTS if "```toml" in (WORKFLOWS / file).read_text()])
def test_settings_shown_in_the_texts_are_settings(file: str) -> None:
    for block in re.findall(r"(?ms)^```toml\n(.*?)^```$", (WORKFLOWS / file).read_text()):
        shown = resolve(ConfigFile(file, block), environ={}, flags={})
        assert shown.warnings == () and shown.settings.upgrade.smoke


def anchors(text: str) -> set[str]:
    """The fragment of each heading, as code hosts make it."""
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", TEXTS)
def test_links_in_the_texts_lead_somewhere(file: str) -> None:
    path = WORKFLOWS / file
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        target, _, fragment = link.partition("#")
        other = (path.parent / target).resolve() if target else path
        assert other.is_file(), link
        assert not fragment or fragment in anchors(other.read_text()), link


@pytest.mark.parametrize("file", TEXTS)
def test_texts_are_plain_and_finished(file: str) -> None:
    text = (WORKFLOWS / file).read_text()
    assert text.isascii() and text.endswith("\n") and "\t" not in text
    prose = re.sub(r"(?ms)^ *```\w*\n.*?^ *```$", "", text)
    assert re.findall(r"TODO|TBD|FIXME|\[Detailed|lorem", prose) == []
    assert prose.count("```") == 0


def test_every_file_is_covered_by_the_package_data_patterns() -> None:
    pyproject = WORKFLOWS.resolve().parents[1] / "pyproject.toml"
    if not pyproject.is_file():
        pytest.skip("runs on an installed package, which has no pyproject.toml")
    setup = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]
    folder = WORKFLOWS.parent
    covered = {
        path for pattern in setup["package-data"]["mcpkeep.supervisor"] for path in folder.glob(pattern)
    }
    assert {path for path in WORKFLOWS.rglob("*") if path.is_file()} <= covered
