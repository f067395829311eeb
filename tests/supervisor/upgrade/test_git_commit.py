"""The commit after an upgrade, in real repositories: these paths, no others, by the user's hooks."""

import os
import subprocess
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.git_commit import commit_paths

PATHS = [".praxis-os/a.md", ".praxis-os/gone.md", ".praxis-os/neu & ä.md", ".praxis-os/ignored.md"]


def git(folder: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.quotePath=false", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A project in a folder of a repository, with an upgrade's changes and the user's own."""
    workspace = tmp_path / "repository" / "project"
    base = workspace / ".praxis-os"
    base.mkdir(parents=True)
    git(workspace, "init", "-q", "..")
    for name, value in {"user.name": "U", "user.email": "u@example.org", "commit.gpgsign": "false"}.items():
        git(workspace, "config", name, value)
    for name in ("a.md", "gone.md", "same.md", "theirs.md"):
        (base / name).write_text("old\n")
    (workspace / "main.c").write_text("old\n")
    (workspace / ".gitignore").write_text("ignored.md\n")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "first")
    (base / "a.md").write_text("new\n")
    (base / "gone.md").unlink()
    (base / "neu & ä.md").write_text("new\n")
    (base / "ignored.md").write_text("new\n")
    (base / "theirs.md").write_text("edited\n")
    (workspace / "main.c").write_text("staged\n")
    git(workspace, "add", "main.c")
    (workspace / "untracked.c").write_text("x\n")
    return workspace


def committed(workspace: Path) -> set[str]:
    return set(git(workspace, "show", "--name-status", "--format=", "HEAD").splitlines())


def status(workspace: Path) -> set[str]:
    return set(git(workspace, "status", "--porcelain").splitlines())


def test_exactly_the_listed_paths_are_committed(workspace: Path) -> None:
    assert commit_paths(workspace, [*PATHS, ".praxis-os/same.md", "../../etc/passwd"], "Upgrade\n\nto #2")
    assert committed(workspace) == {
        "M\tproject/.praxis-os/a.md",
        "D\tproject/.praxis-os/gone.md",
        "A\tproject/.praxis-os/neu & ä.md",
    }
    assert git(workspace, "log", "-1", "--format=%B").strip() == "Upgrade\n\nto #2"
    assert status(workspace) == {
        " M project/.praxis-os/theirs.md",
        "M  project/main.c",
        "?? project/untracked.c",
    }
    assert not commit_paths(workspace, PATHS, "again")


def test_where_nothing_is_tracked_nothing_is_committed(workspace: Path, tmp_path: Path) -> None:
    before = status(workspace)
    assert not commit_paths(workspace, [".praxis-os/neu & ä.md"], "new only")
    assert not commit_paths(workspace, [".praxis-os/same.md"], "unchanged")
    assert not commit_paths(workspace, [], "none")
    assert not commit_paths(tmp_path, PATHS, "no repository")
    assert status(workspace) == before


@pytest.mark.parametrize("place", ["own", "configured"])
def test_the_users_hook_may_refuse_and_the_index_is_as_it_was(workspace: Path, place: str) -> None:
    hooks = workspace.parent / (".git/hooks" if place == "own" else "our hooks")
    hooks.mkdir(exist_ok=True)
    (hooks / "pre-commit").write_text("#!/bin/sh\necho 'no commits on Fridays' >&2\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    if place == "configured":
        git(workspace, "config", "core.hooksPath", "our hooks")
    before, head = status(workspace), git(workspace, "rev-parse", "HEAD")
    with pytest.raises(UpgradeFailed) as refused:
        commit_paths(workspace, PATHS, "Upgrade")
    assert str(refused.value) == (
        f"git did not commit the upgrade in {str(workspace)!r}: no commits on Fridays"
    )
    assert (status(workspace), git(workspace, "rev-parse", "HEAD")) == (before, head)


def test_a_first_commit_takes_what_was_added(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.name", "U")
    git(tmp_path, "config", "user.email", "u@example.org")
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    git(tmp_path, "add", "a", "b")
    assert commit_paths(tmp_path, ["a"], "first")
    assert committed(tmp_path) == {"A\ta"}
    assert status(tmp_path) == {"A  b"}
