"""Venvs by uv and by pip, from local wheels alone: shared, held to old versions, refused with a cause."""

import os
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.install_errors import Cause, diagnose
from mcpkeep.protocol.upgrade.readiness import Patience
from mcpkeep.protocol.upgrade.requirements import PythonFacts, Requirements, read_requirements
from mcpkeep.supervisor.upgrade.command import Stopped, Stopper, run_command
from mcpkeep.supervisor.upgrade.python import ask_python, own_base, runs_from, venv_python
from mcpkeep.supervisor.upgrade.removal import remove_tree
from mcpkeep.supervisor.upgrade.venv import COMPLETE, BuiltVenv, Venvs, folder_bytes, read_venv_record
from tests.supervisor.upgrade.installation import World, make_venv, make_world
from tests.wheels import make_wheel, sha256_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


class Bench:
    """A folder of venvs, one of them the former one, and requirements."""

    def __init__(
        self,
        world: World,
        folder: Path,
        *,
        uv: str | None,
        installed: tuple[str, ...] = (),
        patience: Patience = Patience(60.0, 60.0),  # noqa: B008 - a frozen value
    ) -> None:
        self.world = world
        self.folder = folder / "venvs"
        self.folder.mkdir()
        self.file = folder / "requirements.txt"
        self.venvs = Venvs(self.folder, environ=world.environ, uv=uv, own_base=own_base(), patience=patience)
        make_venv(world, self.folder / "old", *installed)
        (self.folder / "old" / "mark").touch()
        self.steps: list[str] = []

    def provide(
        self,
        text: str,
        *,
        same: bool = False,
        former: str | None = "old",
        snapshot: str | None = None,
        stopper: Stopper | None = None,
    ) -> BuiltVenv:
        self.file.write_text(text)
        found = self.requirements(text)
        return self.venvs.provide(
            found,
            self.file,
            former=former,
            former_sha256=found.sha256 if same else "0" * 64,
            snapshot=snapshot,
            stopper=stopper or Stopper(),
            progress=self.steps.append,
        )

    def requirements(self, text: str) -> Requirements:
        return read_requirements("requirements.txt", {"requirements.txt": text}.get)

    def left(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name not in ("old", ".lock"))


def know_by_heart(venv: Path, base: str) -> None:
    """Have the venv's interpreter say that it was made with `base`, whatever that is."""
    markers = ask_python(Path(sys.executable), environ={}).markers
    facts = msgspec.json.encode(PythonFacts("abi", "platform", base, markers))
    python = venv_python(venv)
    python.unlink()
    python.write_text(f"#!/bin/sh\necho '@mcpkeep@{facts.decode()}'\n")
    python.chmod(0o755)


def versions(built: BuiltVenv) -> dict[str, str]:
    return {
        each.name: each.version for each in built.facts.installed if each.name not in ("pip", "setuptools")
    }


def test_a_new_venv_holds_the_old_versions_and_is_recorded(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv, installed=("alpha==1.0", "beta==1.0"))
    built = bench.provide("alpha\nstepper\n")
    assert versions(built) == {"alpha": "1.0", "beta": "1.0", "stepper": "1.0"}
    assert (built.shared, built.tool, built.unconstrained, built.warnings) == (False, "uv", False, ())
    record = read_venv_record(bench.folder / built.name)
    assert record is not None
    assert record.snapshot == "alpha==1.0\nbeta==1.0\nstepper==1.0\n"
    assert bench.left() == [built.name]
    assert any(step.startswith("uv: Installed 3 packages") for step in bench.steps), bench.steps
    assert not any("+ alpha" in step for step in bench.steps)


def test_an_old_version_that_a_requirement_rules_out_is_let_go_alone(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv, installed=("alpha==1.0", "beta==1.0"))
    built = bench.provide("alpha>=2\n")
    assert versions(built) == {"alpha": "2.0", "beta": "1.0"}
    assert not built.unconstrained


def test_old_versions_that_cannot_be_held_are_let_go_and_reported(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv, installed=("alpha==1.0", "beta==1.0"))
    built = bench.provide("alpha\nnewer\n")
    assert versions(built)["beta"] == "2.0"
    assert built.unconstrained


def test_a_held_version_that_a_raised_minimum_rules_out_is_let_go_by_uv_too(
    world: World, tmp_path: Path
) -> None:
    for version, leaf in (("1.0", "leaf<2"), ("2.0", "leaf>=2")):
        make_wheel(world.wheels, "stem", version, requires=[leaf])
        make_wheel(world.wheels, "leaf", version)
    bench = Bench(world, tmp_path, uv=world.uv, installed=("stem==1.0", "leaf==1.0"))
    built = bench.provide("stem>=2\n")
    assert versions(built) == {"stem": "2.0", "leaf": "2.0"}
    assert (built.tool, built.unconstrained) == ("uv", True)


def test_a_local_build_that_the_index_does_not_have_lets_no_other_version_go(
    world: World, tmp_path: Path
) -> None:
    local = make_wheel(world.wheels, "torchlike", "1.0+cpu")
    bench = Bench(world, tmp_path, uv=world.uv, installed=("torchlike==1.0+cpu", "alpha==1.0", "beta==1.0"))
    local.unlink()
    for version in ("1.0", "2.0"):
        make_wheel(world.wheels, "torchlike", version)
    built = bench.provide("torchlike\nalpha\n")
    assert versions(built) == {"torchlike": "1.0", "alpha": "1.0", "beta": "1.0"}
    assert not built.unconstrained


def test_the_former_venv_is_shared_where_its_set_is_enough(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv="/no/uv", installed=("alpha==1.0",))
    built = bench.provide("alpha\n", same=True)
    assert (built.name, built.shared, bench.left(), bench.steps) == ("old", True, [], [])


def test_the_former_venv_is_not_shared_where_something_is_missing(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv, installed=("beta==1.0",))
    built = bench.provide("alpha\n", same=True)
    assert not built.shared
    assert "lacks what its requirements ask for: alpha" in built.warnings[0]
    assert versions(built) == {"alpha": "2.0", "beta": "1.0"}


def test_a_venv_that_was_made_before_is_found_again_and_a_spoiled_one_is_not(
    world: World, tmp_path: Path
) -> None:
    bench = Bench(world, tmp_path, uv=world.uv)
    first = bench.provide("alpha\n")
    again = bench.provide("# the same\nalpha\n")
    assert (again.name, again.shared, again.facts) == (first.name, True, first.facts)
    remove_tree(next((bench.folder / first.name / "lib").glob("python*/site-packages/beta-2.0.dist-info")))
    beside = bench.provide("alpha\n")
    assert (beside.name, beside.shared) == (f"{first.name}-2", False)
    assert (bench.folder / first.name / COMPLETE).exists()


def test_a_half_made_venv_is_removed_before_another_is_made(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv)
    built = bench.provide("beta\n")
    (bench.folder / built.name / COMPLETE).unlink()
    (bench.folder / built.name / "rubbish").touch()
    assert bench.provide("beta\n").shared is False
    assert not (bench.folder / built.name / "rubbish").exists()


def test_a_venv_is_made_with_the_old_ones_interpreter_or_mcpkeeps_own_where_that_is_gone(
    world: World, tmp_path: Path
) -> None:
    bench = Bench(world, tmp_path, uv=world.uv)
    base = ask_python(Path(sys.executable), environ=world.environ).base
    assert bench.provide("beta\n").facts.base == base
    old = bench.folder / "old" / "bin"
    for name in os.listdir(old):
        if name.startswith("python"):
            (old / name).unlink()
    os.symlink("/gone/bin/python3.11", old / "python")
    built = bench.provide("beta==1.0\n")
    assert versions(built) == {"beta": "1.0"}
    (warning,) = built.warnings
    assert "does not run: no such file or directory; the new venv is made with" in warning


def test_hashes_in_the_requirements_are_checked(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv, installed=("beta==1.0",))
    digest = sha256_of(world.wheels / "beta-2.0-py3-none-any.whl")
    assert versions(bench.provide(f"beta==2.0 --hash=sha256:{digest}\n")) == {"beta": "2.0"}
    for text, cause in ((f"beta==2.0 --hash=sha256:{'0' * 64}\n", "hash_mismatch"),):
        with pytest.raises(UpgradeFailed) as failed:
            bench.provide(text)
        assert failed.value.details["cause"] == cause
    alpha = sha256_of(world.wheels / "alpha-2.0-py3-none-any.whl")
    with pytest.raises(UpgradeFailed) as failed:
        bench.provide(f"alpha==2.0 --hash=sha256:{alpha}\n")
    assert failed.value.details["cause"] == "hash_missing"


CAUSES = [
    ("zz-nosuch\n", "no_such_package"),
    ("alpha==9\n", "no_such_version"),
    ("needsgone\n", "no_such_package"),
    ("newer\nclash\n", "conflict"),
    ("futurist\n", "wrong_python"),
]


@pytest.mark.parametrize(
    ("text", "cause"), [*CAUSES, ("winonly\n", "no_wheel"), ("alpha>=9\n", "no_such_version")]
)
def test_uv_fails_with_its_cause_and_nothing_is_left(
    world: World, tmp_path: Path, text: str, cause: str
) -> None:
    bench = Bench(world, tmp_path, uv=world.uv)
    with pytest.raises(UpgradeFailed) as failed:
        bench.provide(text)
    assert failed.value.details["cause"] == cause, failed.value.details
    assert failed.value.remediation
    assert failed.value.details["output"]
    assert bench.left() == []


def test_an_index_that_uv_cannot_reach_is_no_network(world: World, tmp_path: Path) -> None:
    make_venv(world, tmp_path / "v")
    environ = {**world.environ, "UV_HTTP_RETRIES": "0", "UV_OFFLINE": "0", "UV_CONFIG_FILE": os.devnull}
    install = ("pip", "install", "--python", str(tmp_path / "v"), "--default-index", "http://127.0.0.1:9/")
    done = run_command((world.uv, *install, "zz-nosuch"), env=environ, limit=60)
    assert (done.code != 0, diagnose(done.lines).cause) == (True, Cause.NO_NETWORK), done.text


def test_uvs_words_are_told_where_pip_fails_without_any(world: World, tmp_path: Path) -> None:
    uv, base = tmp_path / "uv", tmp_path / "base"
    uv.write_text("#!/bin/sh\necho 'client error (Connect)' >&2\nexit 2\n")
    base.write_text(f"#!/bin/sh\ncase $* in *venv*) exit 1;; esac\nexec {sys.executable} $*\n")
    bench = Bench(world, tmp_path, uv=str(uv))
    know_by_heart(bench.folder / "old", str(base))
    for script in (uv, base):
        script.chmod(0o755)
    with pytest.raises(UpgradeFailed, match="no network"):
        bench.provide("beta\n")
    assert bench.left() == []


@pytest.fixture(scope="module")
def by_pip(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, BuiltVenv]:
    """A venv that pip made, since uv failed for its own reasons; pip's own packages take seconds."""
    folder = tmp_path_factory.mktemp("pip")
    broken = folder / "uv"
    broken.write_text("#!/bin/sh\necho 'panicked at src/main.rs' >&2\nexit 101\n")
    broken.chmod(0o755)
    bench = Bench(world, folder, uv=str(broken), installed=("alpha==1.0", "beta==1.0"))
    return bench, bench.provide("alpha\nnewer\n")


def test_uv_that_fails_for_its_own_reasons_gives_way_to_pip(by_pip: tuple[Bench, BuiltVenv]) -> None:
    bench, built = by_pip
    assert (built.tool, built.unconstrained, bench.left()) == ("pip", True, [built.name])
    assert versions(built) == {"alpha": "2.0", "beta": "2.0", "newer": "1.0"}
    assert "uv: panicked at src/main.rs" in bench.steps
    assert any(step.startswith("pip: Successfully installed") for step in bench.steps)


@pytest.mark.parametrize(("text", "cause"), CAUSES)
def test_pip_names_the_same_causes(
    world: World, tmp_path: Path, by_pip: tuple[Bench, BuiltVenv], text: str, cause: str
) -> None:
    bench, built = by_pip
    (tmp_path / "requirements.txt").write_text(text)
    python = str(venv_python(bench.folder / built.name))
    command = (python, "-I", "-m", "pip", "install", "--dry-run", "-r", str(tmp_path / "requirements.txt"))
    done = run_command(command, env=world.environ, limit=60)
    assert (done.code != 0, diagnose(done.lines).cause) == (True, Cause(cause)), done.text


def test_neither_uv_nor_the_interpreter_can_be_executed(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv="/no/such/uv")
    know_by_heart(bench.folder / "old", "/no/such/python")
    with pytest.raises(UpgradeFailed, match="'/no/such/python' cannot be executed: no such file"):
        bench.provide("beta\n")
    assert bench.left() == []


def test_an_installer_that_reports_success_and_installs_nothing_is_found_out(
    world: World, tmp_path: Path
) -> None:
    liar = tmp_path / "uv"
    liar.write_text(f'#!/bin/sh\n[ "$1" = pip ] || exec {sys.executable} -m venv --without-pip "$5"\n')
    liar.chmod(0o755)
    bench = Bench(world, tmp_path, uv=str(liar))
    with pytest.raises(UpgradeFailed, match="uv reported success, and these are not met: beta"):
        bench.provide("beta\n")
    assert bench.left() == []


@pytest.mark.parametrize(
    ("does", "patience", "said"),
    [
        ("sleep 1000", Patience(0.2, 60.0), "said nothing for 0.2 s"),
        ("while :; do echo busy; sleep 0.1; done", Patience(60.0, 3.0), "took more than 3 s"),
    ],
    ids=["silent", "without end"],
)
def test_an_installation_that_takes_too_long_is_ended_and_pip_does_not_begin_it_anew(
    world: World, tmp_path: Path, does: str, patience: Patience, said: str
) -> None:
    slow = tmp_path / "uv"
    slow.write_text(f'#!/bin/sh\n[ "$1" = pip ] || exec {world.uv} "$@"\n{does}\n')
    slow.chmod(0o755)
    bench = Bench(world, tmp_path, uv=str(slow), patience=patience)
    with pytest.raises(UpgradeFailed, match=f"the installation {said}, and was ended") as failed:
        bench.provide("beta\n")
    assert failed.value.details["cause"] == "took_too_long"
    assert "network" in failed.value.remediation
    assert not any(step.startswith("pip:") for step in bench.steps)
    assert bench.left() == []


def test_a_made_venv_that_does_not_run_any_more_is_not_shared(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv)
    built = bench.provide("beta\n")
    (bench.folder / built.name / "bin" / "python").unlink()
    beside = bench.provide("beta\n", former=None)
    assert (beside.name, beside.shared) == (f"{built.name}-2", False)
    assert read_venv_record(bench.folder / "old") is None


def test_a_venv_that_another_builds_is_refused(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv)
    with bench.venvs.lock(), pytest.raises(UpgradeFailed, match="another process builds") as refused:
        bench.provide("beta\n")
    assert refused.value.remediation
    assert bench.provide("beta\n").shared is False


def test_a_build_that_is_stopped_ends_its_processes_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    slow = tmp_path / "uv"
    started = tmp_path / "started"
    os.mkfifo(started)
    # It makes some of the venv, says so, and never ends; neither does its child.
    slow.write_text(
        f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"\nsleep 1000 &\necho > {started}\nwait\n'
    )
    slow.chmod(0o755)
    bench = Bench(world, tmp_path, uv=str(slow))
    stopper = Stopper()

    def stop() -> None:
        started.read_bytes()
        stopper.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped):
        bench.provide("beta\n", stopper=stopper)
    thread.join()
    assert bench.left() == []
    # Nobody is left that holds the lock.
    with bench.venvs.lock():
        pass


def test_a_snapshot_is_held_instead_of_the_former_venv(world: World, tmp_path: Path) -> None:
    bench = Bench(world, tmp_path, uv=world.uv, installed=("alpha==2.0", "beta==2.0"))
    built = bench.provide("alpha\n", snapshot="alpha==1.0\nbeta==1.0\n")
    assert versions(built) == {"alpha": "1.0", "beta": "1.0"}


def test_an_interpreter_tells_what_is_installed_and_from_where(world: World, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w", "local", "3.0", requires=["beta; extra == 'x'"])
    make_venv(world, tmp_path / "v", str(wheel))
    facts = ask_python(venv_python(tmp_path / "v"), environ=world.environ)
    (local,) = facts.installed
    assert (local.name, local.version, local.requires) == ("local", "3.0", ("beta; extra == 'x'",))
    assert local.url == wheel.as_uri()
    assert facts.markers["python_full_version"].startswith("3.")
    assert os.path.exists(facts.base)


def test_an_interpreter_that_fails_is_refused_with_its_last_words(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho the library is gone >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(UpgradeFailed, match="does not run: the library is gone"):
        ask_python(python, environ={})


def test_mcpkeep_knows_where_it_runs_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "real"))
    assert runs_from(tmp_path / "link")
    assert runs_from(tmp_path / "other", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not runs_from(tmp_path / "real")


def test_what_a_folder_takes_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    one = folder_bytes(tmp_path)
    (tmp_path / "sub").mkdir()
    os.link(tmp_path / "a", tmp_path / "sub" / "b")
    assert folder_bytes(tmp_path) == one >= 100_000
    assert folder_bytes(tmp_path / "none") == 0


def test_a_read_only_tree_is_removed(tmp_path: Path) -> None:
    (tmp_path / "t" / "inner").mkdir(parents=True)
    (tmp_path / "t" / "inner" / "file").touch()
    (tmp_path / "t" / "inner").chmod(0o500)
    remove_tree(tmp_path / "t")
    remove_tree(tmp_path / "t")
    assert not (tmp_path / "t").exists()
