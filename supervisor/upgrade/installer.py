"""Makes releases: of the live code, of a source's, of a backup's; each with its venv."""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import CODE_PARTS, REQUIREMENTS
from mcpkeep.protocol.upgrade.post_install import POST_INSTALL, PostInstall
from mcpkeep.protocol.upgrade.release import (
    ADOPTED,
    UNKNOWN_VERSION,
    MakeRelease,
    PostInstallDone,
    Pruned,
    RebuildRelease,
    Release,
    ReleaseChecked,
    ReleaseMade,
    Snapshot,
    VenvRecord,
    free_name,
    release_id_of,
)
from mcpkeep.protocol.upgrade.requirements import (
    PythonFacts,
    Requirements,
    freeze,
    read_requirements,
    unmet,
    venv_key,
)
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders
from mcpkeep.supervisor.upgrade.adoption import LiveVenv, find_live_venv, repair_venv, take_venv_over
from mcpkeep.supervisor.upgrade.backup_store import SNAPSHOT
from mcpkeep.supervisor.upgrade.code_files import code_digests
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.git_exclude import exclude_venv
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.post_install import run_post_install
from mcpkeep.supervisor.upgrade.pruning import prune
from mcpkeep.supervisor.upgrade.python import ask_python, own_base, runs_from, venv_python
from mcpkeep.supervisor.upgrade.refusal import refusing
from mcpkeep.supervisor.upgrade.release_check import check_release
from mcpkeep.supervisor.upgrade.release_store import (
    copy_code,
    make_own_folder,
    new_release,
    point_link,
    read_release,
    release_ids,
    server_words,
    write_release,
)
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.venv import SCHEMA, BuiltVenv, Venvs, folder_bytes

__all__ = ["Installer", "folder_requirements", "installed_version"]

_SERVER, _SCRIPTS = (part.installed for part in CODE_PARTS)
_NOTHING = Requirements((), (), hashed=False)

Progress = Callable[[str], None]


class Installer:
    """The releases of one installation. Blocking; one call at a time, in any thread.

    Every method raises UpgradeFailed where it is refused or fails, and Stopped by its stopper, with nothing
    left of the attempt.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        environ: Mapping[str, str],
        post_install: Mapping[str, PostInstall] = POST_INSTALL,
        uv: str | None = None,
        base_python: str | None = None,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
        calls: FileCalls = OS_CALLS,
    ) -> None:
        """`environ` is what uv, pip and post-install steps get: with indexes, proxies, and the run's mark.

        `uv` is its path, None to do without; `base_python` makes venvs where the former one is broken.
        """
        self._layout = layout
        self._environ = environ
        self._post_install = post_install
        self._own_base = base_python or own_base()
        self._venvs = Venvs(layout.venvs, environ=environ, uv=uv, own_base=self._own_base, calls=calls)
        self._today = today
        self._calls = calls

    def adopt(self, *, stopper: Stopper, progress: Progress) -> ReleaseMade:
        """The release of what is live, made where none is the same, and `current` pointed at it.

        A live venv that does not run is taken over all the same, and the release cannot be started then.
        """
        began = time.monotonic()
        layout, calls = self._layout, self._calls
        with refusing():
            self._check_live()
            make_own_folder(layout, calls=calls)
            repair_venv(layout, calls=calls)
            progress("looking at the live server")
            files = code_digests(layout.base / _SERVER, stopper=stopper)
            live = find_live_venv(layout)
            warnings: list[str] = []
            release = self._same_release(files, live.owned) if live is not None and live.owned else None
            if release is None:
                requirements = self._live_requirements(warnings)
                first = ADOPTED not in release_ids(layout)
                release_id = ADOPTED if first else release_id_of(self._today(), "local", self._taken)
                progress(f"copying the live code into release {release_id}")
                release = self._make(
                    release_id,
                    layout.base,
                    version=installed_version(_text(layout.base / "VERSION.txt")),
                    commit=None,
                    requirements=requirements,
                    stopper=stopper,
                    venv=lambda _: self._adopt_venv(live, requirements, stopper, warnings),
                )
            point_link(layout.current, f"releases/{release.release_id}", temp=self._temp, calls=calls)
            if live is not None and (told := exclude_venv(layout)) is not None:
                warnings.append(told)
        seconds = time.monotonic() - began
        return ReleaseMade(release, venv_shared=True, seconds=seconds, warnings=tuple(warnings))

    def make(self, order: MakeRelease, *, stopper: Stopper, progress: Progress) -> ReleaseMade:
        """A release of a folder of code, with its venv; its id gets `-2` and so on where it is taken."""
        return self._make_from(
            order.release_id,
            Path(order.code),
            version=order.version,
            commit=order.commit,
            former=read_release(self._layout, order.previous),
            snapshot=None,
            stopper=stopper,
            progress=progress,
        )

    def rebuild(self, order: RebuildRelease, *, stopper: Stopper, progress: Progress) -> ReleaseMade:
        """The release by that id anew, of a backup's mcp_server/ and scripts/ and the versions of its
        snapshot: for a way back whose own release is gone, or does not run.
        """
        backup = self._layout.backups / order.backup_id
        with refusing():
            snapshot = (backup / SNAPSHOT).read_text(encoding="utf-8", errors="replace")
        with self._set_aside(order.release_id):
            return self._make_from(
                order.release_id,
                backup,
                version=installed_version(_text(backup / "VERSION.txt")),
                commit=None,
                former=self._former(),
                snapshot=snapshot,
                stopper=stopper,
                progress=progress,
            )

    def check(self, release_id: str, *, stopper: Stopper) -> ReleaseChecked:
        """Whether it can be started; its server is not run."""
        problems = check_release(self._layout, release_id, environ=self._environ, stopper=stopper)
        return ReleaseChecked(release_id, problems)

    def run_post_install(self, release_id: str, *, stopper: Stopper, progress: Progress) -> PostInstallDone:
        """Run what the packages of a release call for, once per venv; raises only for a required step."""
        name = read_release(self._layout, release_id).venv
        steps = run_post_install(
            self._venvs.path(name),
            self._venvs.ask(name, stopper=stopper),
            self._post_install,
            environ=self._environ,
            stopper=stopper,
            progress=progress,
            calls=self._calls,
        )
        return PostInstallDone(steps)

    def prune(self, keep: Sequence[str], *, stopper: Stopper, progress: Progress) -> Pruned:
        """Remove releases that are neither kept nor current, and venvs that none uses."""
        return prune(self._layout, self._venvs, keep, stopper=stopper, progress=progress, calls=self._calls)

    def snapshot(self, release_id: str | None, *, stopper: Stopper) -> Snapshot:
        """What the venv of a release holds, or the live one."""
        if release_id is not None:
            facts = self._venvs.ask(read_release(self._layout, release_id).venv, stopper=stopper)
        else:
            facts = ask_python(venv_python(self._layout.venv), environ=self._environ, stopper=stopper)
        return Snapshot(freeze(facts), facts.markers.get("python_full_version", ""))

    def free_id(self, commit: str) -> str:
        """An id for a release of this commit, made today."""
        return release_id_of(self._today(), commit, self._taken)

    def venv_bytes(self) -> int:
        """What a new venv may take: as much as the live one."""
        return folder_bytes(Path(os.path.realpath(self._layout.venv)))

    def runs_from_here(self) -> bool:
        """Whether mcpkeep itself runs from the live venv or one of the releases'."""
        return runs_from(self._layout.venv, self._layout.venvs)

    # Its own.

    @property
    def _temp(self) -> Path:
        return self._layout.own / "current.pending"

    def _taken(self, release_id: str) -> bool:
        return os.path.lexists(self._layout.releases / release_id)

    def _check_live(self) -> None:
        server = self._layout.base / _SERVER
        if server.is_symlink():
            raise UpgradeFailed(
                f"{str(server)!r} is a link to {os.readlink(server)!r}, and an upgrade would write there",
                remediation="put a copy of that folder in its place",
            )
        if not (server / "__main__.py").is_file():
            raise UpgradeFailed(
                f"there is no server in {str(server)!r}", remediation="install praxis-os first"
            )
        if self.runs_from_here():
            raise UpgradeFailed(
                f"mcpkeep itself runs from {str(self._layout.venv)!r}, which an upgrade replaces",
                remediation="install mcpkeep elsewhere, with `uv tool` or `pipx`",
            )

    def _live_requirements(self, warnings: list[str]) -> Requirements:
        try:
            return folder_requirements(self._layout.base)
        except UpgradeFailed as error:
            warnings.append(str(error))
            return _NOTHING

    def _adopt_venv(
        self, live: LiveVenv | None, requirements: Requirements, stopper: Stopper, warnings: list[str]
    ) -> str:
        if live is None:
            warnings.append(
                f"there is no venv at {str(self._layout.venv)!r}: the live server cannot be started"
            )
            return "none"
        if live.owned is not None:
            return live.owned
        facts: PythonFacts | None = None
        try:
            facts = ask_python(venv_python(live.path), environ=self._environ, stopper=stopper)
            if missing := unmet(requirements.wanted, facts):
                warnings.append(f"the live venv lacks what its requirements ask for: {', '.join(missing)}")
        except UpgradeFailed as error:
            warnings.append(str(error))
        name = self._free_venv(venv_key(requirements, facts) if facts is not None else "broken", live)
        record = VenvRecord(
            SCHEMA,
            requirements.sha256,
            datetime.now(UTC),
            "adopted",
            freeze(facts) if facts is not None else "",
        )
        stopper.check()
        take_venv_over(self._layout, live, name, record, calls=self._calls)
        return name

    def _free_venv(self, key: str, live: LiveVenv) -> str:
        def taken(name: str) -> bool:
            path = self._venvs.path(name)
            return os.path.lexists(path) and not (live.link and os.path.realpath(path) == str(live.path))

        return free_name(key, taken)

    def _same_release(self, files: Mapping[str, str], venv: str) -> Release | None:
        layout = self._layout
        current = layout.current_release()
        scripts: dict[str, str] | None = None
        for release_id in release_ids(layout):
            try:
                release = read_release(layout, release_id)
            except UpgradeFailed:
                continue
            if release.server_files != files or release.venv != venv:
                continue
            if release_id == current:
                return release
            # Its scripts are for the way back.
            scripts = scripts if scripts is not None else code_digests(layout.base / _SCRIPTS)
            if code_digests(layout.releases / release_id / _SCRIPTS) == scripts:
                return release
        return None

    def _make_from(
        self,
        release_id: str,
        code: Path,
        *,
        version: str,
        commit: str | None,
        former: Release | None,
        snapshot: str | None,
        stopper: Stopper,
        progress: Progress,
    ) -> ReleaseMade:
        began = time.monotonic()
        built: list[BuiltVenv] = []
        with refusing():
            make_own_folder(self._layout, calls=self._calls)
            requirements = folder_requirements(code)

            def provide(folder: Path) -> str:
                progress("looking at the venv")
                found = self._venvs.provide(
                    requirements,
                    folder / REQUIREMENTS,
                    former=former.venv if former is not None else None,
                    former_sha256=former.requirements_sha256 if former is not None else None,
                    snapshot=snapshot,
                    stopper=stopper,
                    progress=progress,
                )
                built.append(found)
                return found.name

            free = free_name(release_id, release_ids(self._layout).__contains__)
            progress(f"copying the code into release {free}")
            try:
                release = self._make(
                    free,
                    code,
                    version=version,
                    commit=commit,
                    requirements=requirements,
                    stopper=stopper,
                    venv=provide,
                )
            except BaseException:
                for found in built:
                    if not found.shared:
                        self._venvs.remove(found.name)
                raise
        (found,) = built
        return ReleaseMade(
            release,
            venv_shared=found.shared,
            unconstrained=found.unconstrained,
            tool=found.tool,
            packages=0 if found.shared else len(found.facts.installed),
            seconds=time.monotonic() - began,
            warnings=found.warnings,
        )

    def _make(
        self,
        release_id: str,
        code: Path,
        *,
        version: str,
        commit: str | None,
        requirements: Requirements,
        stopper: Stopper,
        venv: Callable[[Path], str],
    ) -> Release:
        layout, calls = self._layout, self._calls
        folder = layout.releases / release_id
        remove_tree(folder)
        try:
            make_folders(folder, calls=calls)
            files = copy_code(code / _SERVER, folder / _SERVER, calls=calls, stopper=stopper)
            copy_code(code / _SCRIPTS, folder / _SCRIPTS, calls=calls, stopper=stopper)
            release = new_release(
                release_id,
                version=version,
                commit=commit,
                venv=venv(folder),
                requirements_sha256=requirements.sha256,
                server_files=files,
                command=server_words(folder),
            )
            stopper.check()
            write_release(layout, release, calls=calls)
        except BaseException:
            remove_tree(folder)
            raise
        return release

    def _former(self) -> Release | None:
        """The current release, whose interpreter a new venv takes; None where it cannot be read."""
        current = self._layout.current_release()
        with suppress(UpgradeFailed):
            return read_release(self._layout, current) if current is not None else None
        return None

    @contextmanager
    def _set_aside(self, release_id: str) -> Generator[None]:
        """Have its id free meanwhile; what stood there comes back where that fails, else only its index."""
        folder = self._layout.releases / release_id
        aside = folder.with_name(f"{release_id}.broken")
        remove_tree(aside)
        if os.path.lexists(folder):
            self._calls.rename(folder, aside)
        try:
            yield
        except BaseException:
            if os.path.lexists(aside):
                self._calls.rename(aside, folder)
            raise
        if (aside / "index").is_dir():
            self._calls.rename(aside / "index", folder / "index")
        remove_tree(aside)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def folder_requirements(code: Path) -> Requirements:
    """What the server in `code`, which holds mcp_server/, asks for. Raises UpgradeFailed, OSError."""

    def read(path: str) -> str | None:
        file = code / path
        if not file.is_file() or not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(code)):
            return None
        return file.read_text(encoding="utf-8", errors="replace")

    return read_requirements(REQUIREMENTS, read)


def installed_version(text: str) -> str:
    """The version that VERSION.txt names: `version=`, its first free line, `commit=`; else `unknown`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    free = next((line for line in lines if "=" not in line), None)
    return values.get("version") or free or values.get("commit") or UNKNOWN_VERSION
