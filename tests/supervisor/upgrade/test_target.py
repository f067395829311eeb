"""What phase 0 says of an installation: everything that is wrong with it at once, and what to do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mcpkeep.protocol.upgrade import inspection
from mcpkeep.protocol.upgrade.facts import SourceFacts, TargetFacts, space_needed
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.command import Stopper
from mcpkeep.supervisor.upgrade.git import run_git
from mcpkeep.supervisor.upgrade.installer import Installer
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.source import inspect_source
from mcpkeep.supervisor.upgrade.target import InstalledTarget
from tests.praxis import World, world_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def facts_of(world: World, *, free: int = 10**12) -> TargetFacts:
    layout = find_installation(world.workspace)
    assert layout is not None
    return await InstalledTarget(lambda: layout, free=lambda _: free).inspect()


def said(facts: TargetFacts) -> str:
    return "; ".join(problem.text for problem in facts.problems)


async def test_an_installation_as_upstream_leaves_it_can_be_upgraded(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    facts = await facts_of(world)
    assert (facts.exists, facts.structure_valid, facts.problems) == (True, True, ())
    assert facts.command == (str(world.base / "venv/bin/python"), "-m", "mcp_server", "--transport", "dual")
    assert (facts.current_release, facts.releases) == (None, ())


async def test_the_venv_counts_only_where_the_source_asks_for_other_packages(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    facts = await facts_of(world, free=1)
    assert (facts.bytes_available, facts.content_bytes > 0, facts.venv_bytes > 0) == (1, True, True)

    def source() -> SourceFacts:
        return inspect_source(
            str(world.source), require_signed=False, workspace=world.workspace, cache=Cache(tmp_path / "c")
        )

    assert space_needed(source(), facts, code=True).venv == facts.venv_bytes
    assert space_needed(source(), facts, code=False).venv == 0
    run_git(world.source, "checkout", "--quiet", "v1.1.0")
    assert space_needed(source(), facts, code=True).venv == 0
    layout = find_installation(world.workspace)
    assert layout is not None
    release = (
        Installer(layout, environ=world.environment).adopt(stopper=Stopper(), progress=lambda _: None).release
    )
    # What the installer itself compares.
    assert source().requirements_sha256 == release.requirements_sha256 == facts.requirements_sha256


async def test_requirements_that_cannot_be_read_are_no_reason_to_stop(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    (world.base / "mcp_server" / "requirements.txt").write_text("-r ../../elsewhere.txt\n")
    facts = await facts_of(world)
    assert (facts.requirements_sha256, facts.problems) == (None, ())


async def test_a_package_that_came_meanwhile_is_counted(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    needed = (await facts_of(world)).venv_bytes
    package = next((world.base / "venv").glob("lib/python*/site-packages")) / "weighty"
    package.mkdir()
    (package / "data").write_bytes(b"x" * 100_000)
    assert (await facts_of(world)).venv_bytes >= needed + 100_000


async def test_everything_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    shutil.rmtree(world.base / "standards")
    shutil.rmtree(world.base / "venv")
    facts = await facts_of(world)
    assert not facts.structure_valid
    assert "has no standards/universal/" in said(facts) and "interpreter" in said(facts)


async def test_standards_that_lie_elsewhere_are_told_with_where_they_belong(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    (world.base / "standards" / "universal").rename(world.base / "standards" / "testing")
    (problem,) = (await facts_of(world)).problems
    assert problem.text == f"{str(world.base)!r} has standards/, but no standards/universal/ in it"
    assert "standards/universal/" in problem.remedy and "standards/development/" in problem.remedy


async def test_an_installation_since_november_2025_is_told_as_what_it_is(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    (world.base / "mcp_server").rename(world.base / "ouroboros")
    (problem,) = (await facts_of(world)).problems
    assert problem == inspection.newer(str(world.base))
    assert "since November 2025" in problem.text and "upgrade-praxis-os.py" in problem.remedy


async def test_a_server_that_cannot_be_started_as_a_module_is_told(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    (world.base / "mcp_server" / "__main__.py").unlink()
    facts = await facts_of(world)
    assert (facts.structure_valid, facts.command) == (False, ())
    assert said(facts) == f"{str(world.base)!r} has no mcp_server/__main__.py"


async def test_a_part_that_is_a_link_is_refused_by_its_target(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    (world.base / "workflows").rename(tmp_path / "elsewhere")
    (world.base / "workflows").symlink_to(tmp_path / "elsewhere")
    facts = await facts_of(world)
    assert f"is a link to '{tmp_path / 'elsewhere'}'" in said(facts)


async def test_a_folder_whose_name_would_end_a_search_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    facts = await facts_of(world_in(tmp_path / "a:b"))
    assert "':'" in said(facts)


@pytest.fixture
def other_device(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system, where one is at hand."""
    here = tmp_path.stat().st_dev
    for parent in map(Path, ("/dev/shm", "/tmp", "/var/tmp")):
        if parent.is_dir() and parent.stat().st_dev != here and os.access(parent, os.W_OK):
            with TemporaryDirectory(dir=parent, prefix="mcpkeep-") as folder:
                yield Path(folder)
            return
    pytest.skip("there is no second file system at hand")


async def test_a_part_on_another_device_is_refused_by_name(tmp_path: Path, other_device: Path) -> None:
    world = world_in(tmp_path)
    (world.base / ".cache").rename(tmp_path / "cache")
    (world.base / ".cache").symlink_to(other_device)
    assert ".cache' is on another device" in said(await facts_of(world))


def test_a_read_only_mount_is_told_from_missing_permissions(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    script = """
import sys, anyio
from pathlib import Path
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.target import InstalledTarget
layout = find_installation(Path(sys.argv[1]))
print(*(problem.remedy for problem in anyio.run(InstalledTarget(lambda: layout).inspect).problems))
"""
    read_only = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; exec "$0" -c "$2" "$1"'
    words = ["unshare", "-rm", "sh", "-c", read_only, sys.executable, str(world.workspace), script]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode == 77 or done.stderr.startswith("unshare: "):
        pytest.skip("nothing can be mounted here")
    assert "is mounted read-only; mount it for writing" in done.stdout, done.stderr
