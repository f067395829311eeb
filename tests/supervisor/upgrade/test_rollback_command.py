"""`mcpkeep rollback` on a workspace that no mcpkeep serves: to releases, to backups, rebuilt, restored."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.praxis import World, commit_files, world_in
from tests.upgrades import content_of, run_mcpkeep, tree_of

GIT_SAFETY = "standards/universal/ai-safety/git-safety.md"
OWN = "standards/development/our-rules.md"


def do(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    """One command of mcpkeep; its answer."""
    done = run_mcpkeep(world, *words, "--json")
    assert done.returncode == code, (done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def upgrade(world: World) -> dict[str, Any]:
    return do(world, "upgrade", "--source", str(world.source), "--yes", "--on-conflict", "keep")


def copied(world: World, folder: Path) -> World:
    shutil.copytree(world.workspace.parent, folder, symlinks=True)
    return world._replace(
        source=folder / "source", wheels=world.wheels, workspace=folder / world.workspace.name
    )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(tmp_path_factory.mktemp("before") / "w")


@pytest.fixture(scope="module")
def after(before: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Upgraded from v1.1.0 to v2.0.0, once for all tests."""
    world = copied(before, tmp_path_factory.mktemp("after") / "w")
    upgrade(world)
    return world


@pytest.fixture
def world(after: World, tmp_path: Path) -> World:
    return copied(after, tmp_path / "w")


def backup_of(world: World) -> Path:
    """Its newest backup."""
    return max(path for path in (world.base / ".backups").iterdir() if path.is_dir())


def written(world: World) -> dict[str, tuple[int, int]]:
    """All that stands there; that the lock came and went is not counted."""
    return {path: when for path, when in tree_of(world.workspace).items() if path != ".praxis-os"}


def current(world: World) -> str:
    return (world.base / ".mcpkeep" / "current").readlink().name


def test_what_was_edited_since_survives_and_the_records_say_what_happened(
    before: World, world: World
) -> None:
    base = world.base
    edited = (base / GIT_SAFETY).read_text()
    (base / GIT_SAFETY).write_text(edited + "\nOne more rule of ours.\n")
    (base / OWN).write_text("ours\n")
    (base / "config.json").write_text('{"ours": true}\n')
    answer = do(world, "rollback")
    old, now = content_of(before), content_of(world)
    assert now[GIT_SAFETY] == old[GIT_SAFETY] + b"\nOne more rule of ours.\n"
    assert now[OWN] == b"ours\n"
    assert (base / "config.json").read_text() == '{"ours": true}\n'
    assert {path for path in old.keys() | now.keys() if now.get(path) != old.get(path)} == {GIT_SAFETY, OWN}
    log = (base / "UPDATE_LOG.txt").read_text()
    assert log.rindex("=== Rollback to ") > log.rindex("=== Upgrade to v2.0.0 - ")
    assert not (base / "VERSION.txt").exists(), "as before"
    assert "`adopted`" in (base / "INSTALLATION_SUMMARY.md").read_text()
    report = (world.workspace / answer["summary"]).read_text()
    assert "## Time" in report and "staging the way back" in report
    assert not (base / ".upgrade-lock").exists()


def test_a_rollback_is_rolled_back_and_the_next_upgrade_has_the_right_base(
    before: World, after: World, world: World
) -> None:
    base = world.base
    do(world, "rollback")
    assert (current(world), content_of(world)) == ("adopted", content_of(before))
    assert do(world, "rollback")["to_release"] == current(after)
    assert content_of(world) == content_of(after)
    backup = backup_of(world).name
    assert do(world, "rollback", "--to", backup)["to_release"] == "adopted"
    assert content_of(world) == content_of(before)
    (base / GIT_SAFETY).write_text(
        (base / GIT_SAFETY).read_text().replace("History is what", "Our history is what")
    )
    upgrade(world)
    merged = (base / GIT_SAFETY).read_text()
    assert "Our history is what" in merged and "Look at the whole diff" in merged
    assert list((base / ".mcpkeep" / "conflicts").glob("*")) == []


def test_a_target_whose_venv_and_release_are_gone_is_rebuilt_from_its_backup(
    before: World, world: World
) -> None:
    own = world.base / ".mcpkeep"
    venv = (own / "releases" / "adopted" / "venv").readlink().name
    shutil.rmtree(own / "venvs" / venv)
    listed = do(world, "backups")
    assert list(listed["unavailable"]) == ["adopted"]
    shutil.rmtree(own / "releases" / "adopted")
    answer = do(world, "rollback", "--to", "adopted")
    assert "it was rebuilt from backup" in answer["warnings"][0]
    assert (current(world), content_of(world)) == ("adopted", content_of(before))
    assert do(world, "backups")["unavailable"] == {}
    assert (world.base / "venv").readlink().name == (own / "releases" / "adopted" / "venv").readlink().name


def test_a_target_whose_code_was_damaged_is_rebuilt_before_its_server_is_started(
    before: World, world: World
) -> None:
    code = world.base / ".mcpkeep" / "releases" / "adopted" / "mcp_server" / "server.py"
    code.write_text(marker := "open('started', 'w')\n")
    (told,) = do(world, "rollback")["warnings"]
    assert "mcp_server/server.py is not what was installed; it was rebuilt from backup" in told
    assert code.read_text() != marker
    assert not (world.workspace / "started").exists()
    assert (current(world), content_of(world)) == ("adopted", content_of(before))


def test_a_damaged_backup_is_refused_with_its_files_and_an_older_one_is_offered(world: World) -> None:
    shutil.rmtree(world.base / ".mcpkeep" / "releases" / "adopted")
    backup = backup_of(world)
    shutil.copytree(backup, backup.with_name("2026-01-01-000000"), symlinks=True)
    (backup / GIT_SAFETY).write_text("rotten\n")
    stands, content = current(world), content_of(world)
    answer = do(world, "rollback", code=4)
    assert (answer["state"], answer["details"]["damaged"]) == ("rollback_failed", [GIT_SAFETY])
    assert answer["details"]["next_older"] == "2026-01-01-000000"
    assert "mcpkeep rollback --to 2026-01-01-000000" in answer["remedy"]
    assert (current(world), content_of(world)) == (stands, content)
    assert do(world, "rollback", "--to", "2026-01-01-000000")["to_release"] == "adopted"


@pytest.mark.parametrize(("name", "told"), [(GIT_SAFETY, GIT_SAFETY), ("MANIFEST.json", "is not one")])
def test_a_damaged_backup_that_is_named_is_refused_though_its_release_stands(
    world: World, name: str, told: str
) -> None:
    backup = backup_of(world)
    (backup / name).write_text("rotten\n")
    stands, content = current(world), content_of(world)
    answer = do(world, "rollback", "--to", backup.name, code=4)
    assert f"backup {backup.name} cannot be used: " in answer["reason"] and told in answer["reason"]
    assert (current(world), content_of(world)) == (stands, content)


def test_a_backup_onto_a_damaged_tree_brings_its_folders_back_whole(before: World, world: World) -> None:
    base = world.base
    (base / OWN).write_text("ours\n")
    shutil.rmtree(base / "standards" / "universal")
    (base / "mcp_server" / "server.py").write_text("")
    answer = do(world, "rollback", "--to", backup_of(world).name)
    assert {**content_of(before), OWN: b"ours\n"} == content_of(world)
    assert (answer["to_release"], current(world)) == ("adopted", "adopted")
    assert answer["kept"] == [OWN]
    assert not (base / "VERSION.txt").exists()
    refused = do(world, "rollback", code=4)
    assert "there is nothing to go back to" in refused["reason"]
    upgrade(world)
    assert "v2.0.0" in (base / "VERSION.txt").read_text()


def test_a_rollback_onto_a_damaged_server_names_the_backup_that_brings_it_back(
    before: World, world: World
) -> None:
    shutil.rmtree(world.base / "mcp_server")
    (told,) = do(world, "rollback")["warnings"]
    assert told.startswith("damaged: mcp_server")
    assert told.endswith(f"`mcpkeep rollback --to {backup_of(world).name}` brings whole folders back")
    do(world, "rollback", "--to", backup_of(world).name)
    assert content_of(world) == content_of(before)


def test_two_upgrades_are_gone_back_over_at_once_or_one_by_one(
    before: World, after: World, world: World
) -> None:
    commit_files(world.source, {"universal/" + GIT_SAFETY: "# Safety\n"}, "Say less")
    contents, releases = [content_of(before), content_of(after)], ["adopted", current(after)]
    releases.append(upgrade(world)["to_release"])
    contents.append(content_of(world))
    assert do(world, "rollback", "--to", "adopted")["to_release"] == "adopted"
    assert content_of(world) == contents[0]
    do(world, "rollback")
    assert (current(world), content_of(world)) == (releases[2], contents[2])
    assert do(world, "rollback", "--to", releases[1])["to_release"] == releases[1]
    assert content_of(world) == contents[1]
    refused = do(world, "rollback", "--to", releases[1], code=2)
    assert "is the current one already" in refused["reason"]


def test_nothing_to_go_back_to_is_said(before: World, tmp_path: Path) -> None:
    world = copied(before, tmp_path / "w")
    stands = written(world)
    for words in ((), ("--to", "nowhere")):
        refused = do(world, "rollback", *words, code=4)
        assert refused["type"] == "upgrade.refused"
        assert refused["reason"] == "there is nothing to go back to: no upgrade was made here yet"
        assert "mcpkeep backups" not in refused["remedy"]
    assert written(world) == stands


def test_a_way_back_that_is_not_known_is_a_wrong_call_that_names_those_that_are(world: World) -> None:
    stands = written(world)
    refused = do(world, "rollback", "--to", "nowhere", code=2)
    assert refused["details"]["known"] == ["adopted", backup_of(world).name]
    assert "there is no way back to 'nowhere'; there is one to 'adopted'" in refused["reason"]
    assert written(world) == stands
