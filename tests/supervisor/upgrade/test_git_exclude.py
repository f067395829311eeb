"""The link that the live venv becomes is no news to the user's repository: real git, real installations."""

from pathlib import Path

import pytest

from mcpkeep.supervisor.upgrade.git import ask_git, run_git
from mcpkeep.supervisor.upgrade.git_exclude import exclude_venv
from mcpkeep.supervisor.upgrade.layout import Layout, find_installation
from tests.praxis import world_in
from tests.upgrades import run_mcpkeep

# As upstream's installation guide has it.
DOCUMENTED = ".praxis-os/.cache/\n.praxis-os/venv/\n.praxis-os/mcp_server/__pycache__/\n"


def installation(workspace: Path, name: str = ".praxis-os") -> Layout:
    """An installation whose venv is a link, as a take-over leaves it."""
    (workspace / name / ".mcpkeep/venvs/a").mkdir(parents=True)
    (workspace / name / ".mcpkeep/.gitignore").write_text("*\n")
    (workspace / name / "venv").symlink_to(".mcpkeep/venvs/a")
    found = find_installation(workspace)
    assert found is not None
    return found


def repository(folder: Path, ignored: str = DOCUMENTED) -> Path:
    """With one commit, so that it can have worktrees."""
    folder.mkdir(parents=True, exist_ok=True)
    run_git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text(ignored)
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false")
    run_git(folder, "add", ".gitignore")
    run_git(folder, *who, "commit", "--quiet", "--message", "Begin")
    return folder


def added(folder: Path) -> list[str]:
    """What is staged after everything was added."""
    run_git(folder, "add", "--all")
    return run_git(folder, "diff", "--cached", "--name-only").decode().split()


def excluded(folder: Path) -> list[str]:
    path = folder / run_git(folder, "rev-parse", "--git-path", "info/exclude").decode().strip()
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_after_an_upgrade_all_can_be_added_without_the_link_and_the_report_says_why(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    repository(world.workspace)
    done = run_mcpkeep(world, "upgrade", "--source", str(world.source), "--yes")
    assert done.returncode == 0, done.stderr
    assert (world.base / "venv").is_symlink()
    staged = added(world.workspace)
    assert ".praxis-os/mcp_server/__main__.py" in staged and ".praxis-os/venv" not in staged
    assert excluded(world.workspace) == ["/.praxis-os/venv"]
    (summary,) = (world.base / ".cache").glob("upgrade-summary-*.md")
    assert "a .gitignore line for a folder does not match" in summary.read_text()


def test_it_is_excluded_once_by_its_path_in_the_repository(tmp_path: Path) -> None:
    top = repository(tmp_path / "top")
    layout = installation(top / "a b" / "[web]*")
    told = exclude_venv(layout)
    assert told is not None and "is a link now" in told
    assert exclude_venv(layout) is None
    assert excluded(top) == ["/a b/\\[web]\\*/.praxis-os/venv"]
    assert added(top) == []


def test_a_line_without_an_end_is_not_continued(tmp_path: Path) -> None:
    top = repository(tmp_path / "top")
    (top / ".git/info/exclude").write_text("*.log")
    exclude_venv(installation(top))
    assert excluded(top) == ["*.log", "/.praxis-os/venv"]


def test_a_worktree_has_it_where_git_looks_for_it(tmp_path: Path) -> None:
    top = repository(tmp_path / "top")
    run_git(top, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    exclude_venv(installation(tmp_path / "tree"))
    assert (excluded(tmp_path / "tree"), added(tmp_path / "tree")) == (["/.praxis-os/venv"], [])
    assert (top / ".git/info/exclude").read_text().endswith("/.praxis-os/venv\n")


def test_an_older_installation_is_excluded_by_the_name_that_it_gets_too(tmp_path: Path) -> None:
    top = repository(tmp_path / "top", ".agent-os/venv/\n")
    exclude_venv(installation(top, ".agent-os"))
    assert excluded(top) == ["/.agent-os/venv", "/.praxis-os/venv"]
    (top / ".agent-os").rename(top / ".praxis-os")
    assert added(top) == []


def test_an_installation_that_is_a_repository_itself_is_told_apart(tmp_path: Path) -> None:
    layout = installation(repository(tmp_path / "top"), ".agent-os")
    repository(layout.base, "venv/\n")
    exclude_venv(layout)
    assert (excluded(layout.base), excluded(tmp_path / "top")) == (["/venv"], [])


@pytest.mark.parametrize("ignored", [".praxis-os/venv\n", ".praxis-os/\n"])
def test_what_is_ignored_already_is_left_alone(tmp_path: Path, ignored: str) -> None:
    top = repository(tmp_path / "top", ignored)
    assert (exclude_venv(installation(top)), excluded(top)) == (None, [])


def test_without_a_repository_nothing_is_done(tmp_path: Path) -> None:
    layout = installation(tmp_path / "top")
    assert ask_git(tmp_path, "rev-parse").code != 0
    before = sorted(tmp_path.rglob("*"))
    assert exclude_venv(layout) is None
    assert sorted(tmp_path.rglob("*")) == before


def test_without_git_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = installation(repository(tmp_path / "top"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert exclude_venv(layout) is None


def test_where_the_line_cannot_be_written_it_is_told_what_to_do(tmp_path: Path) -> None:
    top = repository(tmp_path / "top")
    (top / ".git/info/exclude").unlink()
    (top / ".git/info/exclude").symlink_to(tmp_path / "nowhere" / "exclude")
    told = exclude_venv(installation(top))
    assert told is not None and "put '/.praxis-os/venv' into a .gitignore before you add files" in told
