"""Reading a workflow's folder: `metadata.json` in the shapes in use, and the files of its phases."""

import re
from collections.abc import Mapping
from typing import cast

import msgspec

from mcpkeep.protocol.workflow.definition import DefinitionError, DynamicPhases, Phase, WorkflowDefinition
from mcpkeep.protocol.workflow.folder import Folder, TaskFile, task_file
from mcpkeep.protocol.workflow.task import Task

__all__ = ["NAME", "read_definition"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
"""What a workflow may be called."""
MAX_METADATA = 1024 * 1024
"""Bytes of a metadata.json; the largest seen in use has 13 KB."""
MAX_PHASES = 100

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
    root = _decoded(files["metadata.json"])
    folder_of = Folder(files)
    named = _text(root, "name", "")
    workflow_type = _text(root, "workflow_type", named if NAME.match(named) else folder)
    if not NAME.match(workflow_type):
        raise _wrong(f"'workflow_type' must be letters, digits, '_', '-' and '.', not {workflow_type!r:.100}")
    dynamic = _dynamic(root, folder_of)
    phases = _phases(root, folder_of, dynamic=dynamic is not None)
    total = root.get("total_phases")
    if dynamic is None and isinstance(total, int) and total != len(phases):
        folder_of.warnings.append(f"metadata.json: 'total_phases' says {total}, and there are {len(phases)}")
    aliases = (*_texts(root, "aliases"), *((folder,) if folder != workflow_type else ()))
    return WorkflowDefinition(
        workflow_type=workflow_type,
        name=named or workflow_type,
        description=_text(root, "description", named or workflow_type),
        version=_text(root, "version", _UNSTATED),
        category=_text(root, "category", "general"),
        estimated_duration=_text(root, ("estimated_duration", "estimated_time"), _UNSTATED),
        phases=phases,
        target_languages=_texts(root, "target_languages", "target_language"),
        artifacts=_texts(root, "artifacts", "primary_outputs"),
        tags=_texts(root, "tags"),
        aliases=tuple(dict.fromkeys(aliases)),
        acknowledgment_required=_flag(root, "acknowledgment_required"),
        dynamic=dynamic,
        warnings=tuple(folder_of.warnings),
        extra={name: value for name, value in root.items() if name not in _KNOWN},
    )


def _decoded(data: bytes) -> dict[str, object]:
    if len(data) > MAX_METADATA:
        raise _wrong(f"has {len(data)} bytes, more than the {MAX_METADATA} that are read")
    try:
        root: object = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _wrong(f"is not JSON: {error}") from None
    return _mapping(root, "metadata.json")


def _dynamic(root: Mapping[str, object], folder: Folder) -> DynamicPhases | None:
    wanted = root.get("total_phases") == "dynamic"
    if not wanted and not _flag(root, "dynamic_phases"):
        return None
    config = _mapping(root.get("dynamic_config") or {}, "'dynamic_config'")
    parser = _text(config, "parser", "spec_tasks_parser")
    if parser != "spec_tasks_parser":
        if wanted:
            raise _wrong(
                f"'dynamic_config': parser {parser!r:.100} is not known; there is 'spec_tasks_parser'"
            )
        folder.warnings.append(
            f"metadata.json: parser {parser!r:.100} is not known; its phases are taken as fixed"
        )
        return None
    templates = _mapping(config.get("templates") or {}, "'templates'")
    return DynamicPhases(
        source_path_key=_text(config, "source_path_key", "spec_path"),
        phase_template=_template(_text(templates, "phase", "phases/dynamic/phase-template.md"), folder),
        task_template=_template(_text(templates, "task", "phases/dynamic/task-template.md"), folder),
        gate=folder.gate("dynamic"),
    )


def _template(named: str, folder: Folder) -> str | None:
    path = folder.find(named, "dynamic")
    try:
        return folder.markdown(path) if path is not None else None
    except DefinitionError as error:
        folder.warnings.append(f"{error}; the spec's own text is shown instead")
        return None


def _phases(root: Mapping[str, object], folder: Folder, *, dynamic: bool) -> tuple[Phase, ...]:
    listed = root.get("phases")
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    if listed is not None and not isinstance(listed, list | int):
        raise _wrong(f"'phases' must be a list, not {listed!r:.100}")
    numbers = folder.numbers()
    if not entries:
        entries = [{"number": number} for number in numbers]
    start = numbers[0] if numbers and numbers[0] in (0, 1) else 1
    found: dict[int, Phase] = {}
    for place, entry in enumerate(entries):
        members: dict[str, object] = (
            {"name": entry} if isinstance(entry, str) else _mapping(entry, f"'phases', entry {place}")
        )
        number = members.get("phase_number", members.get("number", start + place))
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 10_000:
            if dynamic and isinstance(number, str):
                continue  # "1-N": says what the phases out of the spec will be like
            raise _wrong(
                f"'phases', entry {place}: 'phase_number' must be a number from 0, not {number!r:.100}"
            )
        if number in found:
            raise _wrong(f"'phases': phase {number} stands twice; renumber one")
        found[number] = _phase(number, members, folder)
    if not found and not dynamic:
        raise _wrong("there are no phases: neither 'phases' here nor files in the folder 'phases'")
    if len(found) > MAX_PHASES:
        raise _wrong(f"there are {len(found)} phases, more than {MAX_PHASES}")
    return tuple(found[number] for number in sorted(found))


def _phase(number: int, members: Mapping[str, object], folder: Folder) -> Phase:
    before = len(folder.warnings)
    named = _text(members, ("file", "phase_file"), "")
    file = folder.phase_file(number, named)
    if named and file is None:
        folder.warnings.append(f"metadata.json: phase {number} names {named!r:.200}, which is not there")
    fallback = _spoken(file.rpartition("/")[2].partition("-")[2]) if file and "-" in file else ""
    name = _text(members, ("phase_name", "name"), fallback or f"Phase {number}")
    purpose = _text(members, ("purpose", "description"), "")
    deliverables = _texts(members, "key_deliverables")
    criteria = _texts(members, "validation_criteria")
    content = _made(number, name, purpose, deliverables, criteria)
    broken: str | None = None
    try:
        content = folder.markdown(file) if file else content
    except DefinitionError as error:
        folder.warnings.append(str(error))
        broken = error.reason
    tasks = _tasks(number, members.get("tasks"), folder)
    gate = folder.gate(number)
    return Phase(
        number=number,
        name=name,
        content=content,
        purpose=purpose,
        estimated_effort=_text(members, ("estimated_effort", "estimated_time", "estimated_duration"), ""),
        key_deliverables=deliverables,
        validation_criteria=criteria,
        requires_restart=_flag(members, "requires_restart"),
        file=file,
        tasks=tasks,
        gate=gate,
        broken=broken,
        warnings=tuple(folder.warnings[before:]),
        extra={name: value for name, value in members.items() if name not in _KNOWN_IN_PHASE},
    )


def _tasks(number: int, listed: object, folder: Folder) -> tuple[Task, ...] | None:
    """What the metadata lists, completed by the files there are; None where neither has any."""
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    members: dict[int, dict[str, object]] = {}
    for place, entry in enumerate(entries, 1):
        where = f"phase {number}, task {place}"
        member = _mapping(entry, where)
        task = member.get("task_number", member.get("number", place))
        if not isinstance(task, int) or isinstance(task, bool) or task in members:
            raise _wrong(f"{where}: 'task_number' must be a number of its own, not {task!r:.100}")
        members[task] = member
    named = {task: _text(member, "file", "") for task, member in members.items()}
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
        name, purpose = _text(member, "name", ""), _text(member, "purpose", "")
        found[task] = _task(task, name, files[task], purpose, warning, folder)
    for file in left:
        if file.number in found:
            folder.warnings.append(
                f"{file.path}: is not used, there is another task {file.number}; renumber one"
            )
        else:
            found[file.number] = _task(file.number, "", file.path, "", "", folder)
    return tuple(found[task] for task in sorted(found)) if found else None


def _files_of(
    number: int, named: Mapping[int, str], folder: Folder
) -> tuple[dict[int, str | None], list[TaskFile]]:
    """Each listed task's file, and the files that are left.

    Where the one it names is not there, the one of the same words, since authors renumber, or else the one of
    its number stands for it; never one that another task names.
    """
    files = {task: folder.find(file, number) for task, file in named.items()}
    left = folder.task_files(number, set(files.values()))

    for fits in (_same_words, _same_number):
        for task in [task for task, file in files.items() if file is None]:
            if (file := next((file for file in left if fits(file, task, named[task])), None)) is not None:
                files[task] = file.path
                left.remove(file)
    return files, left


def _same_words(file: TaskFile, _: int, named: str) -> bool:
    meant = task_file(named)
    return meant is not None and bool(meant.slug) and meant.words == file.words


def _same_number(file: TaskFile, task: int, _: str) -> bool:
    return file.number == task


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


# Members of foreign JSON: read leniently, refused where they are plainly something else.


def _wrong(reason: str) -> DefinitionError:
    return DefinitionError("metadata.json", reason)


def _mapping(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(f"{where} must be an object, not {value!r:.100}")
    return cast("dict[str, object]", value)


def _text(members: Mapping[str, object], names: str | tuple[str, ...], default: str) -> str:
    for name in (names,) if isinstance(names, str) else names:
        value = members.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            if text := str(value).strip():
                return text
        elif value is not None:
            raise _wrong(f"{name!r} must be text, not {value!r:.100}")
    return default


def _texts(members: Mapping[str, object], *names: str) -> tuple[str, ...]:
    for name in names:
        value = members.get(name)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            entries = cast("list[object]", value)
            return tuple(entry if isinstance(entry, str) else _shown(entry) for entry in entries)
        if value is not None:
            raise _wrong(f"{name!r} must be a list of texts, not {value!r:.100}")
    return ()


def _shown(value: object) -> str:
    """An entry that is not a text: what names it, or else its JSON."""
    members = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    named = members.get("name", members.get("description"))
    return named if isinstance(named, str) else msgspec.json.encode(value).decode()


def _flag(members: Mapping[str, object], name: str) -> bool:
    value = members.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(f"{name!r} must be true or false, not {value!r:.100}")
    return bool(value)
