"""An index that config.json has elsewhere: exchanged there, and refused where that cannot be."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpkeep.protocol.upgrade.facts import Problem
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.rollback import plan_rollback
from mcpkeep.supervisor.upgrade.sample import build_index
from mcpkeep.supervisor.upgrade.staging import fill_staging
from mcpkeep.supervisor.upgrade.target import InstalledTarget
from mcpkeep.supervisor.workspace import index_folder, prepare_index
from tests.praxis import World, world_in
from tests.small_installation import SESSION, build, order
from tests.upgrades import run_mcpkeep

PLACES = ["var/search index", ".praxis-os/our_index", ".praxis-os/.cache/ours/index"]
USUAL = ".praxis-os/.cache/vector_index"


def configure(base: Path, **rag: object) -> None:
    (base / "config.json").write_text(json.dumps({"rag": rag}))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def do(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    done = run_mcpkeep(world, *words, "--json")
    assert done.returncode == code, (done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("place", PLACES[:2])
def test_an_upgrade_and_its_rollback_exchange_the_index_where_the_server_has_it(
    tmp_path: Path, place: str
) -> None:
    world = world_in(tmp_path)
    index, usual = world.workspace / place, world.workspace / USUAL
    shutil.rmtree(usual, ignore_errors=True)
    build_index(world.base)
    index.parent.mkdir(exist_ok=True)
    usual.rename(index)
    configure(world.base, index_path=place)
    before = files(index)
    do(world, "upgrade", "--source", str(world.source), "--yes", "--on-conflict", "keep")
    known = json.loads((index / "metadata.json").read_bytes())["files_mtimes"]
    assert known == {
        path.relative_to(world.base).as_posix(): path.stat().st_mtime
        for path in (world.base / "standards").rglob("*.md")
    }, "proven in staging with what is installed now"
    assert files(index) != before
    do(world, "rollback")
    now = files(index)
    assert {path: now.get(path) for path in before} == before
    assert now.keys() - before.keys() <= {p for p in now if "/data/" in p or "/_deletions/" in p}
    assert not usual.exists()
    assert not (world.base / ".mcpkeep" / "staging").exists()


@pytest.mark.parametrize("place", PLACES)
def test_the_files_of_a_change_and_of_its_way_back_go_through_that_place_alone(
    tmp_path: Path, place: str
) -> None:
    world = build(tmp_path)
    configure(world.base, index_path=place)
    index, staged = tmp_path / place, world.layout.staging(SESSION) / place
    index.parent.mkdir(exist_ok=True)
    (tmp_path / USUAL).rename(index)
    shutil.copy(world.base / "config.json", world.layout.staged(SESSION))
    staged.parent.mkdir(exist_ok=True, parents=True)
    (world.layout.staging(SESSION) / USUAL).rename(staged)
    before, after = files(index), files(staged)
    world.begin()
    world.commit(order(world))
    assert files(index) == {**after, **before}, "with what the old server may still read"
    world.changes.settle(SESSION)
    assert files(index) == after
    world.begin("s-2", kind="rollback")
    world.commit(plan_rollback(world.changes, "s-2", None).order)
    world.changes.settle("s-2")
    assert files(index) == before
    assert not (tmp_path / USUAL).exists()


def test_a_way_back_that_is_given_up_leaves_the_former_index_as_it_was(tmp_path: Path) -> None:
    world = build(tmp_path)
    world.begin()
    world.commit(order(world))
    world.changes.settle(SESSION)
    former = world.layout.releases / "old" / "index"
    before = files(former)
    world.begin("s-2", kind="rollback")
    back = plan_rollback(world.changes, "s-2", None).order
    world.changes.prepare_first(back)
    world.changes.swap_first(back)
    lent = files(world.layout.vector_index).keys() - before.keys()
    assert lent, "what the running server may still read"
    world.changes.undo("s-2")
    assert files(former) == before


def test_it_is_found_through_a_link_to_the_installation(tmp_path: Path) -> None:
    project, real = tmp_path / "project", tmp_path / "elsewhere" / "praxis"
    project.mkdir()
    real.mkdir(parents=True)
    (project / ".praxis-os").symlink_to(real)
    layout = Layout(project, real)
    for place, found in (("var/index", project / "var/index"), (".praxis-os/ours", real / "ours")):
        configure(real, index_path=place)
        assert layout.vector_index == found


@pytest.mark.parametrize("place", PLACES[1:])
def test_a_backup_and_staging_leave_it_out(tmp_path: Path, place: str) -> None:
    world = build(tmp_path)
    configure(world.base, index_path=place)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / USUAL).rename(tmp_path / place)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = BackupFiles(world.layout).create("s", release=None, requirements="", now=now, check=lambda: None)
    assert [path for path in made.manifest.files if "lance" in path] == []
    fill_staging(world.layout, "s-3")
    assert list(world.layout.staging("s-3").rglob("*.lance")) == []


def test_the_older_name_leads_to_it_in_staging_as_it_does_in_the_workspace(tmp_path: Path) -> None:
    world = build(tmp_path, base=".agent-os")
    fill_staging(world.layout, "s-3")
    assert os.path.samefile(world.layout.staging("s-3") / ".agent-os", world.layout.staged("s-3"))


# What a killed build left


@pytest.mark.parametrize("place", [*PLACES, USUAL])
def test_one_that_a_killed_build_left_there_is_cleared_at_start(tmp_path: Path, place: str) -> None:
    base = tmp_path / ".praxis-os"
    base.mkdir()
    configure(base, index_path=place)
    table = tmp_path / place / "praxis_os_standards.lance"
    table.mkdir(parents=True)
    prepare_index(str(base), alone=False)
    assert table.exists()
    prepare_index(str(base))
    assert not table.parent.exists()
    assert table.parent.parent.is_dir()
    table.mkdir(parents=True)
    (table.parent / "metadata.json").write_text("{}")
    prepare_index(str(base))
    assert table.exists()


def test_of_an_unfinished_one_behind_a_link_the_link_goes_and_what_it_points_at_stays(tmp_path: Path) -> None:
    index, elsewhere = tmp_path / USUAL, tmp_path / "elsewhere"
    index.parent.mkdir(parents=True)
    (elsewhere / "praxis_os_standards.lance").mkdir(parents=True)
    index.symlink_to(elsewhere)
    prepare_index(str(tmp_path / ".praxis-os"))
    assert not os.path.lexists(index)
    assert [path.name for path in elsewhere.iterdir()] == ["praxis_os_standards.lance"]


@pytest.mark.parametrize("place", ["src", "../beside", ".", ".praxis-os/specs", ".praxis-os"])
def test_what_is_no_index_is_never_cleared_whatever_the_settings_say(tmp_path: Path, place: str) -> None:
    project = tmp_path / "project"
    folders = [project / "src", tmp_path / "beside", project / ".praxis-os" / "specs"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "mine.md").write_text("mine")
    configure(project / ".praxis-os", index_path=place)
    prepare_index(str(project / ".praxis-os"))
    assert all((folder / "mine.md").exists() for folder in folders)
    assert index_folder(str(project / ".praxis-os")) == str(project / USUAL)


# What is refused


def _nothing(_: Path) -> None:
    """Already refused by its name."""


def _linked_out(project: Path) -> None:
    (project.parent / "shared").mkdir()
    (project / "var").symlink_to(project.parent / "shared")


def _with_files(project: Path) -> None:
    (project / "var").mkdir()
    (project / "var" / "notes.md").write_text("mine")


def _a_file(project: Path) -> None:
    (project / "var").write_text("mine")


@pytest.mark.parametrize(
    ("value", "prepare", "why"),
    [
        ("/srv/index", _nothing, "is no path inside the project, relative to its root"),
        ("../index", _nothing, "is no path inside the project, relative to its root"),
        ("var/index", _linked_out, "is reached through a link"),
        ("var", _linked_out, "is reached through a link"),
        ("var", _with_files, "holds other things than an index, such as 'notes.md'"),
        ("var/index", _a_file, "is a file, or below one"),
    ],
)
def test_an_upgrade_is_refused_where_the_index_cannot_be_exchanged(
    tmp_path: Path, value: str, prepare: Callable[[Path], None], why: str
) -> None:
    project = tmp_path / "project"
    world = build(project)
    configure(world.base, index_path=value)
    prepare(project)
    assert problems_of(world.layout) == [
        Problem(
            f"`rag.index_path` in config.json is {value!r}, which {why}: the index there cannot be exchanged",
            "name a folder of its own inside the project, such as '.praxis-os/.cache/vector_index'",
        )
    ]


def test_an_upgrade_is_refused_where_the_settings_are_damaged(tmp_path: Path) -> None:
    world = build(tmp_path)
    (world.base / "config.json").write_text('{"rag": ')
    [problem] = problems_of(world.layout)
    assert problem.text.startswith(
        "config.json is damaged, so it is not known where the server keeps its index"
    )
    assert problem.remedy.startswith("mend config.json")


def problems_of(layout: Layout) -> list[Problem]:
    """Those that come of its settings."""
    facts = anyio.run(InstalledTarget(lambda: layout).inspect)
    return [problem for problem in facts.problems if "config.json" in problem.text]


def test_a_plan_says_what_the_server_reads_elsewhere(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    configure(world.base, standards_path="docs/standards", workflows_path=".praxis-os/workflows")
    answer = do(world, "plan", "--source", str(world.source))
    [warning] = [said for said in answer["plan"]["warnings"] if "config.json" in said]
    assert warning.startswith("`rag.standards_path` in config.json is 'docs/standards': the server reads its")
