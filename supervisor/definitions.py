"""The workflow definitions there are: searched nearest first, read when they change, and kept in between.

Every call looks at the disk's stamps, so that an edit is seen at the next call. Calls are synchronous and may
come from several threads.
"""

import difflib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.workflow.definition import (
    BrokenWorkflow,
    DefinitionError,
    OptionMissing,
    WorkflowDefinition,
)
from mcpkeep.protocol.workflow.expansion import expand
from mcpkeep.protocol.workflow.listing import Listing, WorkflowSummary, by_category, summarize
from mcpkeep.protocol.workflow.metadata import read_definition
from mcpkeep.supervisor.workflow_files import (
    MAX_FILE,
    Stamp,
    list_folder,
    read_bounded,
    read_workflow,
    stamp_of,
)

__all__ = ["SHIPPED", "CacheCounts", "Definitions", "WorkflowUnknown", "search_path"]

SHIPPED = Path(__file__).parent / "workflows"
"""The workflows that come with mcpkeep."""
CONDUCTED = ("praxis_os_upgrade_v1",)
"""mcpkeep performs their phases itself, so the shipped text stands before any other. Installations have one
of this name, whose gates let anything pass."""
MAX_WORKFLOWS = 300
"""Folders looked at in one place."""
MAX_EXPANSIONS = 64
"""Dynamic workflows kept with their spec's phases."""
_LISTED = (".json", ".yaml", ".yml", "/phases")
RACY_NS = 10_000_000
"""Two edits this close may carry the same time, the kernel's clock ticking every 1 to 10 ms: such files are
read again."""


class WorkflowUnknown(McpkeepError):
    """No workflow goes by this name."""

    def __init__(self, name: str, close: tuple[str, ...]) -> None:
        hint = f"did you mean {', '.join(close)}" if close else "see list_workflows"
        super().__init__(f"no workflow is called {name!r}; {hint}")
        self.name = name
        self.close = close


class CacheCounts(msgspec.Struct, frozen=True):
    """How often a definition asked for was there already, since the start."""

    hits: int
    misses: int

    @property
    def hit_rate(self) -> float:
        """From 0 to 1; 1 before the first question."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 1.0


def search_path(workspace: Path) -> tuple[Path, ...]:
    """Where a workspace has workflows of its own, nearest first; `.agent-os` only without a `.praxis-os`."""
    home = ".agent-os" if not (workspace / ".praxis-os").exists() else ".praxis-os"
    return workspace / home / "workflows", workspace / "universal" / "workflows"


class _Entry:
    """One folder as it was last read."""

    def __init__(self, folder: str, base: str, now: int) -> None:
        files = read_workflow(folder, base)
        self.base = base
        self.full: dict[str, Stamp] = files.stamps
        name = os.path.basename(folder)
        self.workflow: WorkflowDefinition | BrokenWorkflow | None
        try:
            if files.error is not None:
                raise files.error
            self.workflow = read_definition(name, files.contents) if files.contents else None
        except DefinitionError as error:
            self.workflow = BrokenWorkflow(workflow_type=name, error=str(error))
        self.summary = summarize(self.workflow) if self.workflow is not None else None
        newest = max((max(stamp[0], stamp[1]) for stamp in self.full.values() if stamp), default=0)
        self.racy = newest > now - RACY_NS
        # What a listing shows hangs on these, few enough to stamp 30 workflows in a millisecond. A broken
        # folder is watched whole, to see it mended, and so is one that is asked for by name.
        self.light = {path: stamp for path, stamp in self.full.items() if path.endswith(_LISTED)}
        if self.summary is not None and self.summary.error is not None:
            self.light = self.full

    def stands(self, *, whole: bool) -> bool:
        watched = self.full if whole else self.light
        return not self.racy and all(stamp_of(path) == stamp for path, stamp in watched.items())


class _Root:
    """One place of the search path, with the folders in it."""

    def __init__(self, path: Path, base: Path) -> None:
        self.path = str(path)
        self._tree = str(base)
        self._shown = "the shipped workflows" if path == base else path.relative_to(base).as_posix()
        self._stamp: Stamp = None
        self._settled = True
        self.base = ""
        self.folders: list[str] = []
        self.problem: BrokenWorkflow | None = None

    def look(self, now: int) -> bool:
        """Whether the folders in it are others than before."""
        stamp = stamp_of(self.path)
        if stamp == self._stamp and self._settled:
            return False
        self._stamp, self.folders, self.problem = stamp, [], None
        self._settled = stamp is None or max(stamp[0], stamp[1]) <= now - RACY_NS
        if stamp is None:
            return True
        self.base = os.path.realpath(self._tree)
        if not Path(os.path.realpath(self.path)).is_relative_to(self.base):
            self.problem = self._broken("is a link that leads out of the workspace")
            return True
        try:
            entries = list_folder(self.path, MAX_WORKFLOWS + 1)
            self.folders = [entry.path for entry in entries[:MAX_WORKFLOWS] if _may_be_workflow(entry)]
        except OSError as error:
            self.problem = self._broken(f"cannot be read: {error.strerror}")
            return True
        if len(entries) > MAX_WORKFLOWS:
            self.problem = self._broken(f"has more than {MAX_WORKFLOWS} entries; the rest is not looked at")
        return True

    def _broken(self, reason: str) -> BrokenWorkflow:
        return BrokenWorkflow(workflow_type=self._shown, error=f"{self._shown}: {reason}")


def _may_be_workflow(entry: "os.DirEntry[str]") -> bool:
    return not entry.name.startswith(".") and entry.is_dir()


class Definitions:
    """All workflow definitions of a workspace. What was handed out is immutable and stays as it is."""

    def __init__(
        self, workspace: Path, *, shipped: Path | None = SHIPPED, now: Callable[[], int] = time.time_ns
    ) -> None:
        self._workspace = workspace
        self._shipped = shipped
        self._now = now
        self._lock = threading.RLock()
        self._hits = self._misses = 0
        self._roots: dict[str, _Root] = {}
        self._entries: dict[str, _Entry] = {}
        self._found: dict[str, str] = {}
        self._broken: dict[str, BrokenWorkflow] = {}
        self._summaries: tuple[WorkflowSummary, ...] = ()
        self._stale = True
        self._expanded: dict[tuple[str, str, Stamp], tuple[WorkflowDefinition, WorkflowDefinition]] = {}

    def listing(self, category: str | None = None) -> Listing:
        """All workflows by name, broken ones with their error; of one category only where that is given."""
        with self._lock:
            self._refresh()
            return by_category(self._summaries, category)

    def get(self, name: str) -> WorkflowDefinition:
        """The workflow of that name or alias, as its files are now.

        Raises WorkflowUnknown, and DefinitionError where it is broken.
        """
        with self._lock:
            if not self._is_current(name):
                self._refresh(name)
            if name in self._broken:
                raise DefinitionError(name, self._broken[name].error)
            folder = self._found.get(name)
            workflow = self._entries[folder].workflow if folder is not None else None
            if not isinstance(workflow, WorkflowDefinition):
                close = difflib.get_close_matches(name[:100], self._found, n=3)
                raise WorkflowUnknown(name, tuple(close))
            return workflow

    def resolve(self, name: str, options: Mapping[str, object]) -> WorkflowDefinition:
        """As `get`, with the phases of a dynamic workflow read from the spec that an option names.

        Raises OptionMissing, too, where that option is missing or leads to no `tasks.md` in the workspace.
        """
        definition = self.get(name)
        if definition.dynamic is None:
            return definition
        path, shown = self._spec(definition.dynamic.source_path_key, options)
        key = (definition.workflow_type, path, stamp_of(path))
        with self._lock:
            kept = self._expanded.get(key)
            if kept is not None and kept[0] is definition and key[2] is not None:
                return kept[1]
            try:
                data = read_bounded(path)
            except OSError as error:
                raise DefinitionError(shown, f"cannot be read: {error.strerror or error}") from None
            if len(data) > MAX_FILE:
                raise DefinitionError(shown, f"has more than {MAX_FILE} bytes")
            whole = expand(definition, source=shown, data=data)
            if len(self._expanded) >= MAX_EXPANSIONS:
                self._expanded.clear()
            changed = key[2]
            if changed is not None and max(changed[0], changed[1]) <= self._now() - RACY_NS:
                self._expanded[key] = (definition, whole)
            return whole

    def counts(self) -> CacheCounts:
        """For `status`: one question per workflow that a call had to know."""
        return CacheCounts(hits=self._hits, misses=self._misses)

    def _spec(self, option: str, options: Mapping[str, object]) -> tuple[str, str]:
        """The real path of the tasks file, and the one to show."""
        value = options.get(option)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise OptionMissing(option, "must name the spec's folder, or its tasks.md, within the workspace")
        base = os.path.realpath(self._workspace)
        real = os.path.realpath(os.path.join(base, value))
        if os.path.isdir(real):
            real = os.path.realpath(os.path.join(real, "tasks.md"))
        if not Path(real).is_relative_to(base):
            raise OptionMissing(option, f"is {value!r:.200}, which leads out of the workspace")
        if not os.path.isfile(real):
            raise OptionMissing(option, f"is {value!r:.200}, where there is no tasks.md")
        return real, os.path.relpath(real, base)

    def _is_current(self, name: str) -> bool:
        """Whether the name's folder, and the places it was searched in, are as they were read."""
        folder = self._found.get(name)
        for root in self._search():
            self._stale |= root.look(self._now())
        if folder is None or self._stale:
            return False
        if not self._entries[folder].stands(whole=True):
            return False
        self._hits += 1
        return True

    def _search(self) -> list[_Root]:
        """The search path as of now: `.praxis-os` may have come since, or gone."""
        wanted = {str(path): self._workspace for path in search_path(self._workspace)}
        if self._shipped is not None:
            wanted[str(self._shipped)] = self._shipped
        if list(wanted) != list(self._roots):
            self._roots = {path: _Root(Path(path), base) for path, base in wanted.items()}
        return list(self._roots.values())

    def _refresh(self, wanted: str | None = None) -> None:
        """Read again what changed; the wanted one is looked at whole."""
        folders: dict[str, str] = {}
        for root in self._search():
            self._stale |= root.look(self._now())
            folders.update(dict.fromkeys(root.folders, root.base))
        asked = self._found.get(wanted) if wanted is not None else None
        for folder, base in folders.items():
            entry = self._entries.get(folder)
            if entry is not None and entry.base == base and entry.stands(whole=folder == asked):
                self._hits += 1
                continue
            self._misses += 1
            self._entries[folder] = _Entry(folder, base, self._now())
            self._stale = True
        for folder in self._entries.keys() - folders.keys():
            del self._entries[folder]
        if self._stale:
            self._index(list(folders))
            self._stale = False

    def _index(self, folders: list[str]) -> None:
        """Names, those we conduct before the nearest; then aliases, which never stand in a name's way."""
        ours = {os.path.join(str(self._shipped), name) for name in CONDUCTED}
        folders.sort(key=lambda folder: folder not in ours)
        self._found, self._broken = {}, {}
        summaries: dict[str, WorkflowSummary] = {}
        for folder in folders:
            workflow = self._entries[folder].workflow
            summary = self._entries[folder].summary
            if workflow is None or summary is None or workflow.workflow_type in summaries:
                continue
            summaries[workflow.workflow_type] = summary
            if isinstance(workflow, BrokenWorkflow):
                self._broken[workflow.workflow_type] = workflow
            self._found[workflow.workflow_type] = folder
        for folder in list(self._found.values()):
            workflow = self._entries[folder].workflow
            if isinstance(workflow, WorkflowDefinition):
                for alias in workflow.aliases:
                    self._found.setdefault(alias, folder)
        for root in self._roots.values():
            if root.problem is not None:
                summaries.setdefault(root.path, summarize(root.problem))
        self._summaries = tuple(summaries[name] for name in sorted(summaries))
