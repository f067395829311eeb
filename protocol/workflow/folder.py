"""A workflow's files by what their names mean: `phases/00/`, `phases/0-plan/` and `PHASE.MD` are no less than
`phases/0/` and `phase.md`, and a gate that is overlooked would be one that lets everything through."""

import re
from collections.abc import Mapping, Set
from typing import Literal, NamedTuple

from mcpkeep.protocol.workflow.definition import DefinitionError
from mcpkeep.protocol.workflow.gate import Gate, GateError, parse_gate
from mcpkeep.protocol.workflow.markdown import MarkdownError, decode_markdown

__all__ = ["Folder", "TaskFile", "task_file"]

MAX_NAME = 255
"""Characters of a file's name, as on disks; the time to match one grows with their square."""

_PHASE = r"phases/(?:phase[-_ ]?)?0*(\d{1,4})(?:[-_. ][^/]*)?"
_PHASE_FILE = re.compile(_PHASE + r"\.md", re.IGNORECASE)
_PHASE_FOLDER = re.compile(_PHASE + "/", re.IGNORECASE)
# Without `task`, only a small number counts: 2025-10-07-notes.md is no task.
_TASK_FILE = re.compile(
    r"(?:task[-_ ]?|(?=\d{1,3}[-_. ]))0*(\d{1,6})[-_. ]*([^/]*)\.md", re.IGNORECASE | re.ASCII
)
_GATES = tuple(f"gate{dash}definition.{kind}" for dash in "-_" for kind in ("yaml", "yml"))


class TaskFile(NamedTuple):
    path: str
    number: int
    slug: str
    """What follows the number, as written."""

    @property
    def words(self) -> str:
        """The slug for comparison."""
        return " ".join(re.split(r"[-_ ]+", self.slug.casefold()))


def task_file(path: str) -> TaskFile | None:
    """What the name of a file says of a task; None where it says nothing."""
    name = re.split(r"[/\\]", path)[-1]
    match = _TASK_FILE.fullmatch(name) if len(name) <= MAX_NAME else None
    return TaskFile(path, int(match[1]), match[2]) if match else None


class Folder:
    """A workflow's files, and what was found odd about them."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._paths: dict[str, str] = {}
        self.warnings: list[str] = []
        for path in sorted(files, key=lambda path: (path != _meaning(path), path)):
            first = self._paths.setdefault(_meaning(path), path)
            if first != path:
                self.warnings.append(f"{path}: is not used, {first!r} stands for the same; keep one")

    def markdown(self, path: str) -> str:
        try:
            return decode_markdown(self._files[path])
        except MarkdownError as error:
            raise DefinitionError(path, str(error)) from None

    def gate(self, phase: int | Literal["dynamic"]) -> Gate | None:
        for name in _GATES:
            if (path := self._paths.get(f"phases/{phase}/{name}")) is not None:
                try:
                    return parse_gate(self._files[path])
                except GateError as error:
                    self.warnings.append(f"{path}: {error}")
                    return Gate(strict=True, broken=f"{path}: {error}")
        return None

    def phase_file(self, number: int, named: str) -> str | None:
        """What the metadata names, or the folder's `phase.md`, or the one `N-name.md`."""
        found = (named and self.find(named, number)) or self.find("phase.md", number)
        if found:
            return found
        matches = ((path, _PHASE_FILE.fullmatch(path)) for path in sorted(self._files))
        alone = [path for path, match in matches if match and int(match[1]) == number]
        self.warnings += (
            f"{path}: is not used, phase {number} is {alone[0]!r}; keep one" for path in alone[1:]
        )
        return alone[0] if alone else None

    def find(self, named: str, phase: int | Literal["dynamic"]) -> str | None:
        """A file that the metadata names relative to the workflow, to `phases/`, or to the phase's folder."""
        named = named.replace("\\", "/").removeprefix("./")
        candidates = (f"phases/{phase}/{named}", named, f"phases/{named}")
        found = (self._paths.get(_meaning(path)) for path in candidates)
        return next((path for path in found if path is not None), None)

    def task_files(self, number: int, named: Set[str | None]) -> list[TaskFile]:
        """Those of a phase that the metadata does not name, by path."""
        inside = sorted(
            path for key, path in self._paths.items() if re.fullmatch(f"phases/{number}/[^/]*", key)
        )
        return [file for path in inside if path not in named and (file := task_file(path)) is not None]

    def numbers(self) -> list[int]:
        """Of the phases that have files."""
        found = (_PHASE_FILE.fullmatch(path) or _PHASE_FOLDER.match(path) for path in self._files)
        return sorted({int(match[1]) for match in found if match})


def _meaning(path: str) -> str:
    return _PHASE_FOLDER.sub(lambda match: f"phases/{match[1]}/", path.casefold(), count=1)
