"""What phase 4 measures of the live server from outside."""

import os
from collections.abc import Mapping, Sequence

import anyio.to_thread

from mcpkeep.actors.upgrade_world import LiveMeasures
from mcpkeep.protocol.upgrade.change import ChangedFile
from mcpkeep.protocol.upgrade.places import SETTINGS
from mcpkeep.protocol.upgrade.smoke import browser_wanted
from mcpkeep.supervisor.launch import clean_environment
from mcpkeep.supervisor.upgrade.changes import ChangeFiles
from mcpkeep.supervisor.upgrade.index import lack_of
from mcpkeep.supervisor.upgrade.journal import JournalFiles
from mcpkeep.supervisor.upgrade.launch import ask_code_path, launch_release
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_checks import run_unit_tests, watching
from mcpkeep.supervisor.upgrade.live_files import digest
from mcpkeep.supervisor.upgrade.release_store import read_release

__all__ = ["LiveValidation"]


class LiveValidation:
    """`Validation` on this machine."""

    def __init__(
        self, layout: Layout, *, run_id: str, unit_tests: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        """`unit_tests` is a command; empty for none."""
        self._layout = layout
        self._run_id = run_id
        self._unit_tests = tuple(unit_tests)
        self._environ = clean_environment(environ)

    async def measure(self, release_id: str, pid: int | None) -> LiveMeasures:
        """See `Validation.measure`. Raises UpgradeFailed where the release cannot be read or run."""
        layout = self._layout
        release = await anyio.to_thread.run_sync(read_release, layout, release_id)
        launch = launch_release(layout, release, layout.workspace)
        code_path = await ask_code_path(launch, str(layout.workspace), self._run_id, environ=self._environ)
        return await anyio.to_thread.run_sync(self._measure, release_id, pid, code_path)

    def _covers(self) -> bool:
        """Whether the index has what was installed; what was edited since is for the server's watcher."""
        base = self._layout.base
        lack = lack_of(self._layout)
        if lack is None:
            return False
        changes = ChangeFiles(self._layout, JournalFiles(self._layout))
        records = changes.made.records()
        installed: Mapping[str, ChangedFile] = records[-1].files if records else {}
        edited = {edit.path for edit in changes.edits.told(records[-1].session_id)} if records else ()
        return not any(
            path in installed and path not in edited and digest(base / path) == installed[path].new
            for path in (*lack.changed, *lack.removed)
        )

    def _measure(self, release_id: str, pid: int | None, code_path: str) -> LiveMeasures:
        layout = self._layout
        folders = [layout.base / "standards", layout.base / "workflows"]
        found = watching(pid, folders) if pid is not None else None
        try:
            config = (layout.base / SETTINGS).read_bytes()
        except OSError:
            config = None
        tests = None
        if self._unit_tests:
            env = {**self._environ, "PYTHONPATH": str(layout.releases / release_id)}
            tests = run_unit_tests(self._unit_tests, cwd=str(layout.workspace), env=env).passed
        return LiveMeasures(
            release_folder=os.path.realpath(layout.releases / release_id),
            code_path=code_path,
            browser_wanted=browser_wanted(config, ("pos_browser",)),
            watchers=None if found is None or found.watches == 0 else bool(found.folders),
            index_current=self._covers() if layout.vector_index.is_dir() else None,
            unit_tests=tests,
        )
