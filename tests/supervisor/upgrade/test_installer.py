"""Releases of real installations: adopted, made, rebuilt, checked, pruned; killed, broken at every call."""

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.evidence import PostInstallStep
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.post_install import PostInstall
from mcpkeep.protocol.upgrade.release import (
    MakeRelease,
    Pruned,
    RebuildRelease,
    ReleaseMade,
    Snapshot,
    release_id_of,
)
from mcpkeep.protocol.upgrade.requirements import PythonFacts
from mcpkeep.supervisor.upgrade import release_store
from mcpkeep.supervisor.upgrade.adoption import repair_venv
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.installer import Installer, installed_version
from mcpkeep.supervisor.upgrade.launch import launch_release
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.release_check import check_release
from mcpkeep.supervisor.upgrade.release_store import read_release, release_ids
from mcpkeep.supervisor.upgrade.venv import read_venv_record
from tests.faults import CountedCalls, Faults
from tests.supervisor.upgrade.installation import World, make_venv, make_world, nothing, order, write_code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def adopt(installer: Installer) -> ReleaseMade:
    return installer.adopt(stopper=Stopper(), progress=nothing)


def make(installer: Installer, wanted: MakeRelease) -> ReleaseMade:
    return installer.make(wanted, stopper=Stopper(), progress=nothing)


def runs(layout: Layout) -> bool:
    """Whether the live venv's interpreter starts and finds its packages."""
    python = str(layout.venv / "bin" / "python")
    done = subprocess.run((python, "-I", "-c", "import alpha, beta"), check=False, stderr=subprocess.PIPE)
    return done.returncode == 0


def test_adoption_makes_a_release_of_what_is_live_and_leaves_a_link_for_the_venv(
    world: World, tmp_path: Path
) -> None:
    layout = world.installation(tmp_path, installed=("alpha==1.0",))
    (layout.base / "VERSION.txt").write_text("version_updated=2025-10-01T00:00:00\ncommit=925b10d\n")
    (layout.base / "mcp_server" / "__pycache__").mkdir()
    (layout.base / "mcp_server" / "__pycache__" / "x.pyc").touch()
    inode = (layout.venv / "pyvenv.cfg").stat().st_ino
    made = adopt(world.installer(layout))
    release = made.release
    assert (release.release_id, release.version, release.commit) == ("adopted", "925b10d", None)
    assert (made.venv_shared, made.tool, made.warnings) == (True, "", ())
    assert sorted(release.server_files) == [
        "__init__.py",
        "__main__.py",
        "core/__init__.py",
        "core/engine.py",
        "requirements.txt",
    ]
    assert os.readlink(layout.venv) == f".mcpkeep/venvs/{release.venv}"
    assert (layout.venv / "pyvenv.cfg").stat().st_ino == inode
    assert os.readlink(layout.releases / "adopted" / "venv") == f"../../venvs/{release.venv}"
    assert layout.current_release() == "adopted"
    assert read_release(layout, "adopted") == release
    assert (layout.own / ".gitignore").read_text() == "*\n"
    record = read_venv_record(layout.venvs / release.venv)
    assert record is not None
    assert (record.tool, record.snapshot) == ("adopted", "alpha==1.0\nbeta==2.0\n")
    script = layout.releases / "adopted" / "scripts" / "build_rag_index.py"
    assert script.stat().st_mode & 0o777 == 0o755
    live = layout.base / "scripts" / "build_rag_index.py"
    assert script.stat().st_mtime_ns == live.stat().st_mtime_ns
    assert runs(layout)
    assert check_release(layout, "adopted", environ=world.environ) == ()


def test_adopting_again_changes_nothing(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, installed=("alpha==1.0",))
    first = adopt(world.installer(layout))
    again = adopt(world.installer(layout))
    assert again.release == first.release
    assert release_ids(layout) == ("adopted",)


def test_edited_live_code_becomes_a_release_of_its_own(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, installed=("alpha==1.0",))
    adopt(world.installer(layout))
    (layout.base / "mcp_server" / "core" / "engine.py").write_text("engine = 'edited'\n")
    installer = Installer(layout, environ=world.environ, today=lambda: date(2026, 1, 31))
    made = adopt(installer)
    assert (made.release.release_id, layout.current_release()) == ("2026-01-31-local", "2026-01-31-local")
    (layout.base / "mcp_server" / "core" / "engine.py").write_text("engine = '1'\n")
    assert adopt(installer).release.release_id == "adopted"
    assert layout.current_release() == "adopted"
    (layout.base / "mcp_server" / "core" / "engine.py").write_text("engine = 'again'\n")
    assert adopt(installer).release.release_id == "2026-01-31-local-2"


def test_a_live_venv_that_was_made_anew_is_taken_over_again(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, installed=("alpha==1.0",))
    first = adopt(world.installer(layout)).release
    layout.venv.unlink()
    make_venv(world, layout.venv, "alpha==2.0")
    second = adopt(world.installer(layout)).release
    assert second.venv == f"{first.venv}-2"
    assert runs(layout)
    assert installed_in(world, layout, "adopted") == "alpha==1.0\nbeta==2.0\n"


def installed_in(world: World, layout: Layout, release_id: str | None) -> str:
    return world.installer(layout).snapshot(release_id, stopper=Stopper()).text


def test_a_venv_that_is_a_link_to_elsewhere_stays_where_it_is(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=())
    subprocess.run(("rm", "-r", str(layout.venv)), check=True)
    make_venv(world, tmp_path / "shared", "alpha==1.0")
    layout.venv.symlink_to(tmp_path / "shared")
    made = adopt(world.installer(layout)).release
    assert os.readlink(layout.venvs / made.venv) == str(tmp_path / "shared")
    assert runs(layout)
    assert adopt(world.installer(layout)).release == made
    pruned = world.installer(layout).prune((), stopper=Stopper(), progress=nothing)
    assert pruned == Pruned((), ())


@pytest.mark.parametrize("broken", ["missing", "dangling", "no interpreter"])
def test_a_venv_that_does_not_run_is_told_and_the_next_release_gets_a_new_one(
    world: World, tmp_path: Path, broken: str
) -> None:
    layout = world.installation(tmp_path / "w")
    python = layout.venv / "bin" / "python"
    if broken == "no interpreter":
        python.unlink()
        python.symlink_to("/gone/python3")
    else:
        subprocess.run(("rm", "-r", str(layout.venv)), check=True)
        if broken == "dangling":
            layout.venv.symlink_to("gone")
    made = adopt(world.installer(layout))
    assert len(made.warnings) == 1
    assert check_release(layout, "adopted", environ=world.environ) != ()
    write_code(tmp_path / "code", "alpha\n", version="2")
    new = make(world.installer(layout), order(tmp_path / "code"))
    assert (new.venv_shared, new.packages) == (False, 2)
    assert check_release(layout, new.release.release_id, environ=world.environ) == ()


def test_a_live_installation_that_cannot_be_taken_over_is_refused_by_name(
    world: World, tmp_path: Path
) -> None:
    empty = Layout(tmp_path / "e", tmp_path / "e" / ".praxis-os")
    empty.base.mkdir(parents=True)
    with pytest.raises(UpgradeFailed, match="there is no server in"):
        adopt(world.installer(empty))
    linked = world.installation(tmp_path / "l")
    (linked.base / "mcp_server").rename(tmp_path / "elsewhere")
    (linked.base / "mcp_server").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UpgradeFailed, match="is a link to"):
        adopt(world.installer(linked))
    filed = world.installation(tmp_path / "f")
    subprocess.run(("rm", "-r", str(filed.venv)), check=True)
    filed.venv.touch()
    with pytest.raises(UpgradeFailed, match="is no folder"):
        adopt(world.installer(filed))
    escaping = world.installation(tmp_path / "x")
    (escaping.base / "mcp_server" / "out").symlink_to("../../../secret")
    with pytest.raises(UpgradeFailed, match="outside its folder"):
        adopt(world.installer(escaping))
    assert release_ids(escaping) == ()
    assert not escaping.venv.is_symlink()


def test_mcpkeep_that_runs_from_the_live_venv_refuses(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = world.installation(tmp_path)
    installer = world.installer(layout)
    assert not installer.runs_from_here()
    monkeypatch.setattr(sys, "prefix", str(layout.venv))
    with pytest.raises(UpgradeFailed, match="mcpkeep itself runs from"):
        adopt(installer)


def test_a_release_shares_the_venv_where_its_requirements_are_the_same(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    adopted = adopt(world.installer(layout)).release
    write_code(tmp_path / "code", "# the same\nalpha\n", version="2")
    made = make(world.installer(layout, uv=False), order(tmp_path / "code"))
    assert (made.venv_shared, made.release.venv, made.packages) == (True, adopted.venv, 0)
    launch = launch_release(layout, made.release, layout.workspace)
    folder = layout.releases / "2026-01-31-a1b2c3d"
    assert launch.command == (
        str(folder / "venv" / "bin" / "python"),
        "-m",
        "mcp_server",
        "--transport",
        "dual",
    )
    assert (launch.env["PYTHONPATH"], launch.env["PYTHONSAFEPATH"]) == (str(folder), "1")
    assert check_release(layout, made.release.release_id, environ=world.environ) == ()


def test_a_release_with_other_requirements_gets_its_venv_and_leaves_the_live_one(
    world: World, tmp_path: Path
) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0", "beta==1.0"))
    adopt(world.installer(layout))
    link = os.readlink(layout.venv)
    write_code(tmp_path / "code", "alpha>=2\n", version="2")
    made = make(world.installer(layout), order(tmp_path / "code"))
    assert (made.venv_shared, made.tool, made.packages) == (False, "uv", 2)
    assert installed_in(world, layout, made.release.release_id) == "alpha==2.0\nbeta==1.0\n"
    assert installed_in(world, layout, None) == "alpha==1.0\nbeta==1.0\n"
    assert (os.readlink(layout.venv), layout.current_release()) == (link, "adopted")
    assert (
        make(world.installer(layout), order(tmp_path / "code")).release.release_id == "2026-01-31-a1b2c3d-2"
    )


def test_the_transport_is_named_only_where_that_version_knows_it(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    (layout.base / "mcp_server" / "__main__.py").write_text("print('no arguments')\n")
    assert adopt(world.installer(layout)).release.command == ("-m", "mcp_server")


def test_a_release_that_cannot_be_made_leaves_nothing(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    adopt(world.installer(layout))
    before = tree(layout)
    for requirements, words in (
        ("alpha==9\n", "alpha==9"),
        ("-e .\n", "editable"),
        ("-r gone.txt\n", "gone.txt"),
    ):
        write_code(tmp_path / "code", requirements)
        with pytest.raises(UpgradeFailed, match=words):
            make(world.installer(layout), order(tmp_path / "code"))
        assert tree(layout) == before
    with pytest.raises(UpgradeFailed, match="there is no release 'none'") as refused:
        make(world.installer(layout), order(tmp_path / "code", previous="none"))
    assert refused.value.remediation == "take one of: adopted"


def test_a_release_is_rebuilt_from_a_backup_with_the_versions_of_its_snapshot(
    world: World, tmp_path: Path
) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==2.0",))
    adopt(world.installer(layout))
    backup = layout.backups / "2026-01-30-101500"
    write_code(backup, "alpha>=1\n", version="0")
    (backup / "requirements-snapshot.txt").write_text("alpha==1.0\nbeta==1.0\n")
    made = world.installer(layout).rebuild(
        RebuildRelease("2026-01-30-rebuilt", backup.name), stopper=Stopper(), progress=nothing
    )
    assert installed_in(world, layout, made.release.release_id) == "alpha==1.0\nbeta==1.0\n"
    assert check_release(layout, made.release.release_id, environ=world.environ) == ()


def test_a_damaged_release_is_found_out(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, installed=("alpha==1.0",))
    adopt(world.installer(layout))
    folder = layout.releases / "adopted" / "mcp_server"
    (folder / "core" / "engine.py").write_text("")
    (folder / "added.py").touch()
    assert check_release(layout, "adopted", environ=world.environ) == (
        "mcp_server/added.py is not what was installed",
        "mcp_server/core/engine.py is not what was installed",
    )
    subprocess.run(("rm", "-r", str(folder)), check=True)
    (problem,) = check_release(layout, "adopted", environ=world.environ)[5:]
    assert "mcp_server would be imported from 'nowhere'" in problem


def test_pruning_keeps_what_is_named_and_current_with_their_venvs(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    adopted = adopt(world.installer(layout)).release
    write_code(tmp_path / "code", "beta\n")
    kept = make(world.installer(layout), order(tmp_path / "code", "2026-01-31-aaaaaaa")).release
    write_code(tmp_path / "code", "alpha>=2\n")
    gone = make(world.installer(layout), order(tmp_path / "code", "2026-01-31-bbbbbbb")).release
    (layout.releases / "2026-01-31-ccccccc").mkdir()
    pruned = world.installer(layout).prune((kept.release_id,), stopper=Stopper(), progress=nothing)
    assert pruned == Pruned(("2026-01-31-bbbbbbb", "2026-01-31-ccccccc"), (gone.venv,))
    assert release_ids(layout) == ("2026-01-31-aaaaaaa", "adopted")
    assert sorted(os.listdir(layout.venvs)) == sorted([".lock", adopted.venv, kept.venv])


def test_what_cannot_be_removed_is_told(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    adopt(world.installer(layout))
    write_code(tmp_path / "code", "alpha\n")
    made = make(world.installer(layout), order(tmp_path / "code")).release
    calls = Faults(fail_at=0, code=errno.EIO)
    pruned = world.installer(layout, calls=calls).prune((), stopper=Stopper(), progress=nothing)
    assert pruned.releases == ()
    assert pruned.warnings == (f"release {made.release_id} could not be removed: input/output error",)


def test_a_release_that_is_half_removed_is_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = world.installation(tmp_path, installed=("alpha==1.0",))
    adopt(world.installer(layout))
    write_code(tmp_path / "code", "alpha\n")
    make(world.installer(layout), order(tmp_path / "code"))

    def fail(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(release_store, "remove_tree", fail)
    pruned = world.installer(layout).prune((), stopper=Stopper(), progress=nothing)
    assert (pruned.releases, len(pruned.warnings)) == ((), 1)
    assert release_ids(layout) == ("adopted",)


def test_post_install_steps_run_once_per_venv(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, requirements="stepper\n", installed=("stepper",))
    table = {"stepper": PostInstall(("stepper", "0")), "absent": PostInstall(("absent",))}
    installer = Installer(layout, environ=world.environ, post_install=table)
    adopt(installer)
    said: list[str] = []
    done = installer.run_post_install("adopted", stopper=Stopper(), progress=said.append)
    assert done.steps == (PostInstallStep("stepper 0", "success", "1.5 MiB", "100% of 1.5 MiB"),)
    assert said == ["stepper 0", "stepper 0: 100% of 1.5 MiB"]
    (again,) = installer.run_post_install("adopted", stopper=Stopper(), progress=nothing).steps
    assert (again.command, again.status) == ("stepper 0", "skipped")


def test_a_failed_step_is_reported_and_fatal_only_where_it_must_succeed(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, requirements="stepper\n", installed=("stepper",))
    adopt(world.installer(layout))

    def ran(step: PostInstall) -> tuple[PostInstallStep, ...]:
        installer = Installer(layout, environ=world.environ, post_install={"stepper": step})
        return installer.run_post_install("adopted", stopper=Stopper(), progress=nothing).steps

    (failed,) = ran(PostInstall(("stepper", "3")))
    assert (failed.status, failed.output) == ("failed", "100% of 1.5 MiB")
    with pytest.raises(UpgradeFailed, match="'stepper 3' failed") as fatal:
        ran(PostInstall(("stepper", "3"), required=True))
    assert "-m stepper 3" in fatal.value.remediation


def test_a_step_that_takes_too_long_is_killed_and_reported(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, requirements="stepper\n", installed=("stepper",))
    adopt(world.installer(layout))
    endless = PostInstall(("http.server", "--bind", "127.0.0.1", "0"), timeout=0.3)
    installer = Installer(layout, environ=world.environ, post_install={"stepper": endless})
    (failed,) = installer.run_post_install("adopted", stopper=Stopper(), progress=nothing).steps
    assert failed.status == "failed"
    assert failed.output.endswith("it took longer than 0.3 s")


def test_a_snapshot_names_what_is_installed_and_the_python(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path, installed=("beta==1.0",))
    found = world.installer(layout).snapshot(None, stopper=Stopper())
    assert found == Snapshot("beta==1.0\n", ".".join(map(str, sys.version_info[:3])))
    assert world.installer(layout).venv_bytes() > 1000


def test_ids_name_the_day_and_the_commit_and_are_free() -> None:
    taken = {"2026-01-31-a1b2c3d", "2026-01-31-a1b2c3d-2"}
    assert release_id_of(date(2026, 1, 31), "a1b2c3d4e5", taken.__contains__) == "2026-01-31-a1b2c3d-3"
    assert release_id_of(date(2026, 1, 31), "local", taken.__contains__) == "2026-01-31-local"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("", "unknown"),
        ("prAxIs OS 1.4\ncommit=abc\n", "prAxIs OS 1.4"),
        ("commit=abc\n", "abc"),
        ("version=2.0\nfree\n", "2.0"),
    ],
)
def test_the_installed_version_is_what_the_file_names(text: str, version: str) -> None:
    assert installed_version(text) == version


# Killed and broken


class Ends(CountedCalls):
    """The process ends before call number `at`, as by SIGKILL: nothing of its clean-up runs."""

    def __init__(self, at: int | None, exchanges: bool = True) -> None:
        self.at = at
        self.exchanges = exchanges

    def _count(self) -> None:
        if self.made == self.at:
            os._exit(9)
        super()._count()


def in_child(work: Callable[[], object]) -> int:
    """Run it in a fork; its exit code: 0 where it came to its end, 9 where it was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def small(workspace: Path) -> Layout:
    """An installation of few files, whose interpreter knows by heart what it would say: it starts at once."""
    base = workspace / ".praxis-os"
    for name, text in {"__main__.py": "", "requirements.txt": ""}.items():
        (base / "mcp_server").mkdir(parents=True, exist_ok=True)
        (base / "mcp_server" / name).write_text(text)
    python = base / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    facts = PythonFacts("abi", "platform", sys.executable, {})
    python.write_text(f"#!/bin/sh\necho '@mcpkeep@{msgspec.json.encode(facts).decode()}'\n")
    python.chmod(0o755)
    return Layout(workspace, base)


def tree(layout: Layout) -> dict[str, str]:
    """Every name below the installation, and where links lead; without traces of running."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(layout.base):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, layout.base)] = os.readlink(path) if os.path.islink(path) else ""
    return {path: link for path, link in found.items() if not path.endswith((".pyc", "__pycache__", ".lock"))}


@pytest.mark.parametrize("exchanges", [True, False])
def test_adoption_killed_before_any_call_leaves_a_venv_after_repair_and_is_finished_by_the_next(
    world: World, tmp_path: Path, exchanges: bool
) -> None:
    counting = Ends(None, exchanges)
    whole = small(tmp_path / "whole")
    adopt(world.installer(whole, calls=counting))
    expected = tree(whole)
    assert counting.made > 20
    gaps = 0
    for at in range(counting.made):
        layout = small(tmp_path / str(at))
        installer = world.installer(layout, calls=Ends(at, exchanges))
        assert in_child(lambda installer=installer: adopt(installer)) == 9  # type: ignore[misc]
        gaps += not os.path.lexists(layout.venv)
        repair_venv(layout)
        assert (layout.venv / "bin" / "python").exists(), at
        made = adopt(world.installer(layout))
        left = {path: link for path, link in tree(layout).items() if not path.endswith(".tmp")}
        assert left == expected, at
        assert made.release.release_id == layout.current_release() == "adopted"
    assert gaps == (0 if exchanges else 1)


def test_repair_killed_before_its_call_is_repaired_by_the_next(world: World, tmp_path: Path) -> None:
    at, layout = 0, small(tmp_path / "0")
    while os.path.lexists(layout.venv):  # until it is killed in the gap
        at, layout = at + 1, small(tmp_path / str(at + 1))
        installer = world.installer(layout, calls=Ends(at, exchanges=False))
        assert in_child(lambda installer=installer: adopt(installer)) == 9  # type: ignore[misc]
    assert in_child(lambda: repair_venv(layout, calls=Ends(0))) == 9
    assert not os.path.lexists(layout.venv)
    assert repair_venv(layout)
    assert (layout.venv / "bin" / "python").exists()
    assert not repair_venv(layout)


@pytest.mark.parametrize("exchanges", [True, False])
def test_adoption_whose_calls_fail_in_turn_is_refused_with_a_working_venv(
    world: World, tmp_path: Path, exchanges: bool
) -> None:
    code = errno.ENOSPC
    counting = Faults(fail_at=10**9, code=code, exchanges=exchanges)
    adopt(world.installer(small(tmp_path / "whole"), calls=counting))
    for at in range(counting.made):
        layout = small(tmp_path / str(at))
        with pytest.raises(UpgradeFailed, match="could not be read or written") as refused:
            adopt(world.installer(layout, calls=Faults(fail_at=at, code=code, exchanges=exchanges)))
        assert refused.value.remediation
        assert (layout.venv / "bin" / "python").exists(), at
        assert adopt(world.installer(layout)).release.release_id == "adopted", at
        assert not any("pending" in path for path in tree(layout)), at


def test_a_release_whose_calls_fail_in_turn_leaves_nothing_of_it(world: World, tmp_path: Path) -> None:
    layout = small(tmp_path / "w")
    adopt(world.installer(layout))
    before = tree(layout)
    code = tmp_path / "code"
    (code / "mcp_server").mkdir(parents=True)
    (code / "mcp_server" / "__main__.py").write_text("new")
    (code / "mcp_server" / "requirements.txt").write_text("beta\n")
    counting = Faults(fail_at=10**9, code=errno.EIO)
    made = make(world.installer(layout, calls=counting), order(code))
    world.installer(layout).prune((), stopper=Stopper(), progress=nothing)
    assert tree(layout) == before
    for at in range(counting.made):
        with pytest.raises(UpgradeFailed, match="could not be read or written"):
            make(world.installer(layout, calls=Faults(fail_at=at, code=errno.EIO)), order(code))
        assert tree(layout) == before, at
    assert made.release.release_id not in release_ids(layout)


def test_a_release_killed_before_any_call_is_no_release_and_is_made_again(
    world: World, tmp_path: Path
) -> None:
    layout = small(tmp_path / "w")
    adopt(world.installer(layout))
    code = tmp_path / "code"
    (code / "mcp_server").mkdir(parents=True)
    (code / "mcp_server" / "__main__.py").write_text("new")
    (code / "mcp_server" / "requirements.txt").write_text("")
    counting = Ends(None)
    make(world.installer(layout, calls=counting), order(code))
    world.installer(layout).prune((), stopper=Stopper(), progress=nothing)
    for at in range(counting.made):
        installer = world.installer(layout, calls=Ends(at))
        assert in_child(lambda installer=installer: make(installer, order(code))) == 9  # type: ignore[misc]
        assert release_ids(layout) == ("adopted",), at
    made = make(world.installer(layout), order(code)).release
    assert read_release(layout, made.release_id) == made
