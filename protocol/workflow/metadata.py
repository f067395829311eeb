"""Reading a workflow's folder: `metadata.json` in the shapes in use, and the files of its phases."""

import re
from collections.abc import Mapping
from itertools import compress
from typing import cast

import msgspec

from mcpkeep.protocol.workflow.definition import DefinitionError, DynamicPhases, Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.folder import Folder, TaskFile, task_file
from mcpkeep.protocol.workflow.gate import Gate
from mcpkeep.protocol.workflow.members import Members, number_of, numbers_for
from mcpkeep.protocol.workflow.task import Task

__all__ = ["NAME", "read_definition"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
"""What a workflow may be called."""
MAX_METADATA = 1024 * 1024
"""Bytes of a metadata.json; the largest seen in use has 13 KB."""
MAX_PHASES = 100
MAX_WARNINGS = 100

_UNSTATED = "unknown"
_KNOWN = frozenset(
    (
        *("workflow_type", "name", "description", "version", "category", "total_phases", "phases"),
        *("estimated_duration", "estimated_time", "target_languages", "target_language", "artifacts"),
        *(
            "primary_outputs",
            "tags",
            "aliases",
            "acknowledgment_required",
            "dynamic_phases",
            "dynamic_config",
        ),
    )
)
_KNOWN_IN_PHASE = frozenset(
    (
        *("phase_number", "number", "phase_name", "name", "file", "phase_file", "purpose", "description"),
        *("estimated_effort", "estimated_time", "estimated_duration", "key_deliverables"),
        *("validation_criteria", "requires_restart", "tasks"),
    )
)


def read_definition(folder: str, files: Mapping[str, bytes]) -> WorkflowDefinition:
    """Make a definition of a folder's name and its files, by path relative to it, with forward slashes.

    Raises DefinitionError with the file and the reason. Markdown is not taken apart here.
    """
    if "metadata.json" not in files:
        raise DefinitionError("metadata.json", "is not there; a workflow's folder must have one")
    folder_of = Folder(files)
    root = Members(_decoded(files["metadata.json"]), "", folder_of.warnings)
    named = root.text("name")
    workflow_type = root.text("workflow_type", named if NAME.match(named) else folder)
    if not NAME.match(workflow_type):
        reason = f"'workflow_type' must be letters, digits, '_', '-' and '.', not {workflow_type!r:.100}"
        if not NAME.match(folder):
            raise _wrong(reason)
        root.warn(reason)
        workflow_type = folder
    dynamic = _dynamic(root, folder_of)
    phases = _phases(root, folder_of, dynamic=dynamic is not None)
    total = root.values.get("total_phases")
    if dynamic is None and isinstance(total, int) and total != len(phases):
        root.warn(f"'total_phases' says {total}, and there are {len(phases)}")
    aliases = (*root.texts("aliases"), *((folder,) if folder != workflow_type else ()))
    return WorkflowDefinition(
        workflow_type=workflow_type,
        name=named or workflow_type,
        description=root.text("description", named or workflow_type),
        version=root.text("version", _UNSTATED),
        category=root.text("category", "general"),
        estimated_duration=root.text(("estimated_duration", "estimated_time"), _UNSTATED),
        phases=phases,
        target_languages=root.texts("target_languages", "target_language"),
        artifacts=root.texts("artifacts", "primary_outputs"),
        tags=root.texts("tags"),
        aliases=tuple(dict.fromkeys(aliases)),
        acknowledgment_required=root.flag("acknowledgment_required"),
        dynamic=dynamic,
        warnings=tuple(folder_of.warnings[:MAX_WARNINGS]),
        extra={name: value for name, value in root.values.items() if name not in _KNOWN},
    )


def _decoded(data: bytes) -> object:
    if len(data) > MAX_METADATA:
        raise _wrong(f"has {len(data)} bytes, more than the {MAX_METADATA} that are read")
    try:
        root: object = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _wrong(f"is not JSON: {error}") from None
    if not isinstance(root, dict):
        raise _wrong(f"must be an object, not {root!r:.100}")
    return cast("object", root)


def _dynamic(root: Members, folder: Folder) -> DynamicPhases | None:
    wanted = root.values.get("total_phases") == "dynamic"
    if not wanted and not root.flag("dynamic_phases"):
        return None
    config = root.inner("dynamic_config")
    parser = config.text("parser", "spec_tasks_parser")
    if parser != "spec_tasks_parser":
        if wanted:
            raise _wrong(
                f"'dynamic_config': parser {parser!r:.100} is not known; there is 'spec_tasks_parser'"
            )
        root.warn(f"parser {parser!r:.100} is not known; its phases are taken as fixed")
        return None
    templates = config.inner("templates")
    return DynamicPhases(
        source_path_key=config.text("source_path_key", "spec_path"),
        phase_template=_template(templates.text("phase", "phases/dynamic/phase-template.md"), folder),
        task_template=_template(templates.text("task", "phases/dynamic/task-template.md"), folder),
        gate=folder.gate("dynamic"),
    )


def _template(named: str, folder: Folder) -> str | None:
    path = folder.find(named, "dynamic")
    try:
        return folder.markdown(path) if path is not None else None
    except DefinitionError as error:
        folder.warnings.append(f"{error}; the spec's own text is shown instead")
        return None


def _phases(root: Members, folder: Folder, *, dynamic: bool) -> tuple[Phase, ...]:
    listed = root.values.get("phases")
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    if listed is not None and not isinstance(listed, list | int):
        root.warn(f"'phases' must be a list, not {listed!r:.100}; the files in the folder 'phases' count")
    numbers = folder.numbers()
    if not entries:
        entries = [{"number": number} for number in numbers]
    if len(entries) > MAX_PHASES:
        raise _wrong(f"there are {len(entries)} phases, more than {MAX_PHASES}")
    phases = [
        Members({"name": entry} if isinstance(entry, str) else entry, f"'phases', entry {n}", folder.warnings)
        for n, entry in enumerate(entries)
    ]
    given = [
        _number_given(members, "phase_number") if members.is_object else str(entry)
        for members, entry in zip(phases, entries, strict=True)
    ]
    if dynamic:  # "1-N" says what the phases out of the spec will be like
        kept = [not isinstance(number, str) or number_of(number) is not None for number in given]
        phases, given = list(compress(phases, kept)), list(compress(given, kept))
    if not phases and not dynamic:
        raise _wrong("there are no phases: neither 'phases' here nor files in the folder 'phases'")
    start = numbers[0] if numbers and numbers[0] in (0, 1) else 1
    found: dict[int, Phase] = {}
    for members, value, (number, own) in zip(phases, given, numbers_for(given, start), strict=True):
        # Nobody knows which gate is meant for a phase whose number is not known.
        wrong = f"'phase_number' must be a number of its own from 0, not {value!r:.100}"
        closed = None if own else f"{members.where}: {wrong}"
        found[number] = _phase(number, members, folder, closed)
    return tuple(found[number] for number in sorted(found))


def _number_given(members: Members, name: str) -> object:
    return members.values.get(name, members.values.get("number"))


def _phase(number: int, members: Members, folder: Folder, closed: str | None) -> Phase:
    """`closed` says why no gate can be told to be its own."""
    before = len(folder.warnings)
    if closed is not None:
        folder.warnings.append(f"{closed}; it is phase {number}, and closed")
    named = members.text(("file", "phase_file"))
    file = folder.phase_file(number, named)
    if named and file is None:
        folder.warnings.append(f"metadata.json: phase {number} names {named!r:.200}, which is not there")
    fallback = _spoken(file.rpartition("/")[2].partition("-")[2]) if file and "-" in file else ""
    name = members.text(("phase_name", "name"), fallback or f"Phase {number}")
    purpose = members.text(("purpose", "description"))
    deliverables = members.texts("key_deliverables")
    criteria = members.texts("validation_criteria")
    content = _made(number, name, purpose, deliverables, criteria)
    broken: str | None = None
    try:
        content = folder.markdown(file) if file else content
    except DefinitionError as error:
        folder.warnings.append(str(error))
        broken = error.reason
    tasks = _tasks(number, members.values.get("tasks"), folder)
    gate = folder.gate(number) if closed is None else Gate(strict=True, broken=closed)
    effort = members.text(("estimated_effort", "estimated_time", "estimated_duration"))
    requires_restart = members.flag("requires_restart")
    return Phase(
        number=number,
        name=name,
        content=content,
        purpose=purpose,
        estimated_effort=effort,
        key_deliverables=deliverables,
        validation_criteria=criteria,
        requires_restart=requires_restart,
        file=file,
        tasks=tasks,
        gate=gate,
        broken=broken,
        warnings=tuple(folder.warnings[before:][:MAX_WARNINGS]),
        extra={name: value for name, value in members.values.items() if name not in _KNOWN_IN_PHASE},
    )


def _tasks(number: int, listed: object, folder: Folder) -> tuple[Task, ...] | None:
    """What the metadata lists, completed by the files there are; None where neither has any."""
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    tasks = [
        Members(_as_task(entry), f"phase {number}, task {place}", folder.warnings)
        for place, entry in enumerate(entries, 1)
    ]
    given = [_number_given(task, "task_number") for task in tasks]
    members: dict[int, Members] = {}
    for member, value, (task, own) in zip(tasks, given, numbers_for(given, 1), strict=True):
        members[task] = member
        if not own:
            member.warn(f"'task_number' must be a number of its own, not {value!r:.100}; it is task {task}")
    named = {task: member.text("file") for task, member in members.items()}
    files, left = _files_of(number, named, folder)
    found: dict[int, Task] = {}
    for task, member in members.items():
        warning = ""
        if named[task] and folder.find(named[task], number) is None:
            instead = f"; {files[task]!r} stands for it" if files[task] else ""
            warning = (
                f"metadata.json: phase {number}, task {task} names {named[task]!r:.200}, which is not there"
            )
            folder.warnings.append(warning := warning + instead)
        name, purpose = member.text("name"), member.text("purpose")
        found[task] = _task(task, name, files[task], purpose, warning, folder)
    for file in left:
        if file.number in found:
            folder.warnings.append(
                f"{file.path}: is not used, there is another task {file.number}; renumber one"
            )
        else:
            found[file.number] = _task(file.number, "", file.path, "", "", folder)
    return tuple(found[task] for task in sorted(found)) if found else None


def _as_task(entry: object) -> object:
    """A text names the task's file, or the task."""
    return {"file" if entry.lower().endswith(".md") else "name": entry} if isinstance(entry, str) else entry


def _files_of(
    number: int, named: Mapping[int, str], folder: Folder
) -> tuple[dict[int, str | None], list[TaskFile]]:
    """Each listed task's file, and the files that are left.

    Where the one it names is not there, the one of the same words, since authors renumber, or else the one of
    its number stands for it; never one that another task names.
    """
    files = {task: folder.find(file, number) for task, file in named.items()}
    left = folder.task_files(number, set(files.values()))
    words = {task: meant.words for task, file in named.items() if (meant := task_file(file)) and meant.slug}
    for wanted, by_words in ((words, True), ({task: task for task in named}, False)):
        there: dict[object, list[TaskFile]] = {}
        for file in reversed(left):
            there.setdefault(file.words if by_words else file.number, []).append(file)
        for task, key in wanted.items():
            if files[task] is None and (matches := there.get(key)):
                files[task] = matches.pop().path
        taken = set(files.values())
        left = [file for file in left if file.path not in taken]
    return files, left


def _task(number: int, name: str, file: str | None, purpose: str, warning: str, folder: Folder) -> Task:
    found = task_file(file) if file else None
    spoken = _spoken(name or (found.slug.replace("_", "-") if found else "")) or f"Task {number}"
    content = ""
    try:
        content = folder.markdown(file) if file else ""
    except DefinitionError as error:
        folder.warnings.append(warning := str(error))
    return Task(number=number, name=spoken, content=content, file=file, purpose=purpose, warning=warning)


def _made(
    number: int, name: str, purpose: str, deliverables: tuple[str, ...], criteria: tuple[str, ...]
) -> str:
    parts = [f"# Phase {number}: {name}", purpose]
    if deliverables:
        parts.append("\n".join(("## Key deliverables", "", *(f"- {text}" for text in deliverables))))
    if criteria:
        parts.append("\n".join(("## Validation criteria", "", *(f"- [ ] {text}" for text in criteria))))
    return "\n\n".join(part for part in parts if part) + "\n"


def _spoken(slug: str) -> str:
    """`pre-flight-checks.md` as `pre flight checks`; what has blanks already is left as it is."""
    slug = slug.removesuffix(".md")
    return slug if " " in slug else slug.replace("-", " ").strip()


def _wrong(reason: str) -> DefinitionError:
    return DefinitionError("metadata.json", reason)
