"""`mcpkeep plan|upgrade|rollback|backups|verify|report` as they are typed: real processes, a sample world."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpkeep.supervisor.upgrade.git import run_git
from tests.praxis import World, make_older, make_variant, world_in
from tests.upgrades import (
    LIMIT,
    content_of,
    live_processes,
    mcpkeep_environment,
    run_mcpkeep,
    start_mcpkeep,
    tree_of,
    until_told,
)

GIT_SAFETY = "standards/universal/ai-safety/git-safety.md"
"""Changed by the new version; an edit of its second line is in conflict, one of its last is merged."""

LONG = "standards/universal/concurrency/locks-and-queues.md"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_in(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> World:
    """For commands that change nothing."""
    world = world_in(tmp_path_factory.mktemp("world"))
    edit(world, "History is what", "Our history is what")
    return world


def edit(world: World, old: str, new: str) -> None:
    path = world.base / GIT_SAFETY
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def make_conflict(world: World) -> None:
    edit(world, "Look at the diff before", "Look at it before")


def decoded(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The one JSON document on stdout."""
    document: dict[str, Any] = json.loads(done.stdout)
    return document


# What changes nothing


def test_a_plan_names_both_versions_and_each_path_whole_by_what_becomes_of_it(untouched: World) -> None:
    done = run_mcpkeep(untouched, "plan", "--source", str(untouched.source))
    first, counts, *lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert first.startswith("from v1.1.0 (") and " to v2.0.0 (" in first
    assert counts == "12 new, 8 updated or merged, 2 removed, 0 conflicts, 0 yours, 45 unchanged"
    assert [line for line in lines if line and not line.startswith(" ")][:4] == [
        "new (12)  new upstream",
        "updated (7)  not edited; changed upstream",
        "merged with your edits (1)  edited by you; upstream changed other lines",
        "removed (2)  not edited; removed upstream",
    ]
    assert f"  {GIT_SAFETY}" in lines
    assert [line for line in lines if line.startswith(f"  {LONG}  ")]
    assert "…" not in done.stdout


def test_a_plan_with_diffs_shows_both_sides(untouched: World) -> None:
    done = run_mcpkeep(untouched, "plan", "--source", str(untouched.source), "--diff")
    assert (done.returncode, "+- Look at the whole diff" in done.stdout) == (0, True), done.stdout[-2000:]


def test_with_json_stdout_is_one_document(untouched: World) -> None:
    done = run_mcpkeep(untouched, "plan", "--source", str(untouched.source), "--json")
    plan = decoded(done)["plan"]
    assert (plan["installed_version"], plan["source_version"]) == ("v1.1.0", "v2.0.0")
    assert "checking the source" in done.stderr


def test_before_the_first_upgrade_there_are_neither_backups_nor_reports(untouched: World) -> None:
    for command, told in (
        ("backups", "no backups yet"),
        ("verify", "no backups yet"),
        ("report", "0 upgrades"),
    ):
        done = run_mcpkeep(untouched, command)
        assert (done.returncode, told in done.stdout) == (0, True), (command, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan"], "--source"),
        (["upgrade", "--source", "/s", "--content-only", "--server-only"], "nothing to upgrade"),
        (["upgrade", "--abort", "--source", "/s"], "--abort stands alone"),
        (["upgrade", "--source", "/s", "--on-conflict", "maybe"], "maybe"),
        (["rollback", "--too", "x"], "--too"),
    ],
)
def test_a_wrong_call_says_what_is_wrong_and_ends_with_2(tmp_path: Path, words: list[str], told: str) -> None:
    done = mcpkeep(tmp_path, *words)
    assert (done.returncode, done.stdout, told in done.stderr) == (2, "", True), done.stderr


@pytest.mark.parametrize("command", ["plan", "upgrade", "rollback", "backups", "verify", "report"])
def test_the_help_of_each_command_has_an_example_and_the_exit_codes(tmp_path: Path, command: str) -> None:
    done = mcpkeep(tmp_path, command, "--help")
    assert done.returncode == 0
    assert f"\n    mcpkeep {command}" in done.stdout
    codes = " ".join(done.stdout[done.stdout.index("Exit codes: ") :].split())
    readme = Path(__file__).parents[3] / "README.md"
    assert codes in " ".join(readme.read_text().split())


def test_without_an_installation_the_remedy_is_told(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    done = mcpkeep(tmp_path, "backups")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no .praxis-os folder\nwhat to do: install praxis-os there first" in done.stderr
    refused = decoded(mcpkeep(tmp_path, "backups", "--json"))
    assert (refused["type"], "--workspace" in refused["remedy"]) == ("upgrade.refused", True)


def test_a_source_that_is_not_there_is_said_not_to_be(untouched: World) -> None:
    done = run_mcpkeep(untouched, "plan", "--source", "./nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no folder '{untouched.workspace}/nowhere'" in done.stderr
    assert "full path" not in done.stderr


def test_without_git_the_remedy_is_to_install_it(untouched: World, tmp_path: Path) -> None:
    done = mcpkeep(untouched.workspace, "plan", "--source", str(untouched.source), PATH=str(tmp_path))
    assert (done.returncode, "git cannot be run" in done.stderr) == (1, True), done.stderr
    assert "install git" in done.stderr


def test_a_wrong_configuration_is_named_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / ".praxis-os").mkdir()
    (tmp_path / "mcpkeep.toml").write_text('[upgrade]\nkeep = "many"\n')
    done = mcpkeep(tmp_path, "backups")
    assert (done.returncode, "Traceback" in done.stderr, "keep" in done.stderr) == (2, False, True), (
        done.stderr
    )


def mcpkeep(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "HOME": str(folder / "home"), **variables}
    return subprocess.run(
        [sys.executable, "-m", "mcpkeep.supervisor", *words],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


# Without a running mcpkeep


def test_a_conflict_waits_for_a_decision_and_the_decided_upgrade_is_recorded_and_can_be_taken_back(
    world: World,
) -> None:
    make_conflict(world)
    before = content_of(world)
    source = ("--source", str(world.source))
    assert "--on-conflict keep or take decides all of them" in run_mcpkeep(world, "plan", *source).stdout
    undecided = run_mcpkeep(world, "upgrade", *source, "--json")
    assert (undecided.returncode, list(decoded(undecided)["conflicts"])) == (3, [GIT_SAFETY])
    told = run_mcpkeep(world, "upgrade", *source)
    assert (told.returncode, f"  {GIT_SAFETY}\n" in told.stderr) == (3, True)
    assert content_of(world) == before

    done = run_mcpkeep(world, "upgrade", *source, "--on-conflict", "take")
    assert (done.returncode, "upgraded from v1.1.0 to v2.0.0" in done.stdout) == (0, True), done.stderr
    assert done.stdout.count(GIT_SAFETY) == 1
    assert [f"phase {number} of 5: " in done.stderr for number in range(6)] == [True] * 6
    assert "Look at it before" not in (world.base / GIT_SAFETY).read_text()

    again = run_mcpkeep(world, "upgrade", *source, "--yes")
    assert again.returncode == 0
    assert again.stdout.startswith("nothing to upgrade: v2.0.0 (") and "as release " in again.stdout

    backup = require_records(world)
    back = run_mcpkeep(world, "rollback", "--json")
    assert (back.returncode, decoded(back)["to_release"]) == (0, "adopted")
    assert content_of(world) == before
    assert live_processes(world) == []
    report = run_mcpkeep(world, "report").stdout
    assert "1 upgrade so far; 100% succeeded; 1 taken back on request" in report
    require_damage_found(world, backup)


def require_records(world: World) -> str:
    """The backup and the report of its one upgrade can be looked at; the backup."""
    listed = run_mcpkeep(world, "backups").stdout
    (backup,) = [path.name for path in (world.base / ".backups").iterdir() if path.is_dir()]
    release = (world.base / ".mcpkeep" / "current").readlink().name
    assert backup in listed and f"release {release}  current\n" in listed
    report = run_mcpkeep(world, "report").stdout
    assert report.startswith("# Upgrade to v2.0.0\n") and "| version | `v1.1.0` | `v2.0.0` |" in report
    (summary,) = (world.base / ".cache").glob("upgrade-summary-*.md")
    told = f"1 upgrade so far; 100% succeeded\nthis report: {summary.relative_to(world.workspace)}\n"
    assert told in report
    whole = run_mcpkeep(world, "verify", backup)
    assert (whole.returncode, "  whole  " in whole.stdout) == (0, True)
    return backup


def require_damage_found(world: World, backup: str) -> None:
    (world.base / ".backups" / backup / GIT_SAFETY).write_text("damaged")
    damaged = run_mcpkeep(world, "verify")
    assert (damaged.returncode, f"  differs: {GIT_SAFETY}\n" in damaged.stdout) == (1, True)
    (found,) = decoded(run_mcpkeep(world, "verify", "--json"))["verifications"]
    assert (found["mismatches"], found["backup_id"]) == ([GIT_SAFETY], backup)
    unknown = run_mcpkeep(world, "rollback", "--to", "nowhere")
    assert (unknown.returncode, "'nowhere'" in unknown.stderr) == (2, True)


def test_a_version_that_does_not_start_leaves_the_former_one_and_ends_with_1(world: World) -> None:
    make_variant(world.source, "missing_module")
    before = content_of(world)
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert done.returncode == 1
    assert "phase 3 of 5: server upgrade: " in done.stderr and "sample_nowhere" in done.stderr
    assert "nothing live has changed\nwhat to do: " in done.stderr
    assert (content_of(world), (world.base / ".upgrade-lock").exists()) == (before, False)
    nothing = run_mcpkeep(world, "upgrade", "--abort")
    assert (nothing.returncode, nothing.stdout) == (0, "given up: nothing was open\n")


@pytest.mark.parametrize("left", ["nothing", "an empty index", "no index"])
def test_an_installation_without_a_finished_index_is_upgraded_and_goes_back(world: World, left: str) -> None:
    cache = world.base / ".cache"
    shutil.rmtree(cache)
    if left != "nothing":  # as a clone leaves it
        (cache / "vector_index" if left == "an empty index" else cache / "state").mkdir(parents=True)
    before = content_of(world)
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert done.returncode == 0, done.stderr
    assert (cache / "vector_index/metadata.json").exists()
    shutil.rmtree(cache)
    back = run_mcpkeep(world, "rollback")
    assert (back.returncode, content_of(world)) == (0, before), back.stderr


def test_an_older_installation_whose_settings_name_its_folder_is_upgraded_twice(tmp_path: Path) -> None:
    world = world_in(tmp_path, "v1.0.0", base=".agent-os")
    paths = {"standards": "standards", "workflows": "workflows", "index": ".cache/vector_index"}
    rag = {f"{name}_path": f".agent-os/{path}" for name, path in paths.items()}
    (world.base / "config.json").write_text(json.dumps({"rag": rag}))
    for version in ("v1.1.0", "v2.0.0"):
        run_git(world.source, "checkout", "--quiet", version)
        done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
        assert done.returncode == 0, done.stderr
        assert version in (world.base / "VERSION.txt").read_text()


@pytest.mark.parametrize("base", [".agent-os", ".praxis-os"])
def test_a_server_of_before_the_rename_is_installed_where_it_finds_the_workspace_and_nowhere_else(
    tmp_path: Path, base: str
) -> None:
    world = world_in(tmp_path, "v1.0.0", base=base)
    make_older(world.source)
    home = tmp_path / "home"
    for name in ("standards", "workflows", ".cache"):
        (home / ".agent-os" / name).mkdir(parents=True)
    before = tree_of(home / ".agent-os")
    upgrade = ("upgrade", "--source", str(world.source), "--yes")
    if base == ".praxis-os":
        done = run_mcpkeep(world, *upgrade)
        assert (done.returncode, (world.base / ".mcpkeep/releases").exists()) == (1, False)
        assert "looks for '.agent-os' alone" in done.stderr and "ln -s .praxis-os .agent-os" in done.stderr
        (world.workspace / ".agent-os").symlink_to(".praxis-os")
    done = run_mcpkeep(world, *upgrade)
    assert done.returncode == 0, done.stderr
    assert tree_of(home / ".agent-os") == before


def test_ctrl_c_takes_back_what_was_begun(world: World) -> None:
    make_variant(world.source, "hang")
    make_conflict(world)
    before = content_of(world)
    process = start_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert process.stderr is not None
    said = until_told(process, "starting the new server")
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said + rest
    (backup,) = [path.name for path in (world.base / ".backups").iterdir() if path.is_dir()]
    told = rest[rest.index("interrupted: ") :].splitlines()[:3]
    assert told[0] == "interrupted: what was begun is taken back"
    assert told[1].startswith("release adopted stays: it is what was here")
    assert told[2].startswith(f"backup {backup} stays: ")
    assert not {"staging", "conflicts"} & {path.name for path in (world.base / ".mcpkeep").iterdir()}
    report = run_mcpkeep(world, "report").stdout
    assert report.startswith("No upgrade has been made here yet.")
    assert "\n0 upgrades so far; 1 ended before anything live had changed\n" in report
    assert (content_of(world), (world.base / ".upgrade-lock").exists()) == (before, False)
    assert live_processes(world) == []


def test_at_a_terminal_each_conflict_is_asked_for_and_the_upgrade_confirmed(world: World) -> None:
    make_conflict(world)
    # In the order of the questions: the diff first, then a decision; then whether to go on.
    answers = {"show the diff": ["?", "d", "t"], "Upgrade now?": ["y"]}
    said, code = typed(world, answers, "upgrade", "--source", str(world.source))
    assert code == 0, said
    assert "'?' is none of keep, take, edit, diff; the first letter is enough" in said
    assert f"{GIT_SAFETY}" in said and "Look at the whole diff" in said
    assert "Server upgrade".lower() in said and "\x1b[" in said
    assert "Look at it before" not in (world.base / GIT_SAFETY).read_text()


def test_at_a_terminal_no_is_an_answer(world: World) -> None:
    before = content_of(world)
    said, code = typed(world, {"Upgrade now?": ["n"]}, "upgrade", "--source", str(world.source))
    assert (code, content_of(world)) == (130, before), said


def typed(world: World, answers: dict[str, list[str]], *words: str) -> tuple[str, int]:
    """Run a command at a terminal, and type an answer whenever its question stands at the end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpkeep.supervisor", *words],
        cwd=world.workspace,
        env={**mcpkeep_environment(world), "TERM": "xterm-256color", "COLUMNS": "60", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said, seen = "", 0
    try:
        while data := os.read(ours, 65536):
            said += data.decode(errors="replace")
            for question, words_left in answers.items():
                if words_left and question in said[seen:]:
                    seen = len(said)
                    os.write(ours, f"{words_left.pop(0)}\n".encode())
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
        process.wait(LIMIT)
    return said, process.returncode
