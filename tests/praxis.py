"""The sample prAxIs OS for tests: a copy for each test, and new versions of it that are broken in one way."""

import atexit
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from mcpkeep.supervisor.upgrade.git import run_git
from mcpkeep.supervisor.upgrade.sample import World, make_source, make_world, packages_environment
from mcpkeep.supervisor.upgrade.sample_history import File, history

__all__ = [
    "VARIANTS",
    "World",
    "commit_files",
    "make_dirty",
    "make_older",
    "make_squashed",
    "make_variant",
    "make_without_git",
    "server_command",
    "server_environment",
    "shallow_clone",
    "world_in",
]

_AUTHOR = ("-c", "user.name=A. Author", "-c", "user.email=author@example.org", "-c", "commit.gpgSign=false")

_BREAKS: dict[str, tuple[str, str, str]] = {
    "syntax_error": ("mcp_server/server.py", "def serve(", "def broken(:\n\n\ndef serve("),
    "missing_module": ("mcp_server/tools.py", "import importlib", "import importlib, sample_nowhere"),
    "missing_package": (
        "mcp_server/requirements.txt",
        "mcpkeep-sample-explain",
        "mcpkeep-sample-explain\nmcpkeep-sample-nowhere",
    ),
    "hang": (
        "mcp_server/server.py",
        """    log(f"index: {index.open()}")""",
        """    while True:\n        signal.pause()""",
    ),
    "crash_on_first_call": (
        "mcp_server/tools.py",
        "            return self._index.search(",
        "            os._exit(17)\n            return self._index.search(",
    ),
    "crash_on_date": (
        "mcp_server/tools.py",
        "        today = datetime.now()",
        "        os._exit(18)\n        today = datetime.now()",
    ),
    "noisy_stdout": (
        "mcp_server/server.py",
        "    tools = Tools(",
        """    os.write(1, b'loading, and it says {"jsonrpc": 2}\\n')\n    tools = Tools(""",
    ),
    "fewer_tools": ("mcp_server/tools.py", '"browser" in settings.groups', '"pages" in settings.groups'),
    "wrong_index": ("mcp_server/settings.py", 'TABLE = "praxis_os_standards"', 'TABLE = "no_such_table"'),
}
VARIANTS = tuple(_BREAKS)
"""What is wrong with a version; `crash_on_date` passes each proof and dies of a call of `current_date`."""


@cache
def _master(version: str, base: str) -> Path:
    folder = Path(mkdtemp(prefix="mcpkeep-praxis-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_world(folder, version=version, base=base)
    return folder


def world_in(folder: Path, version: str = "v1.1.0", *, base: str = ".praxis-os") -> World:
    """The sample world in `folder`, that version installed; made once in each process, and copied."""
    shutil.copytree(_master(version, base), folder, symlinks=True, dirs_exist_ok=True)
    wheels = folder / "wheels"
    return World(folder / "source", wheels, folder / "project", packages_environment(wheels))


def server_command(world: World) -> list[str]:
    """How the installed server is started."""
    main = (world.base / "mcp_server" / "__main__.py").read_text()
    flags = ("--transport", "dual") if "--transport" in main else ()
    return [str(world.base / "venv" / "bin" / "python"), "-m", "mcp_server", *flags]


def server_environment(world: World) -> dict[str, str]:
    """What its environment needs; it is to be started in the workspace."""
    return {"PYTHONPATH": str(world.base), "PYTHONDONTWRITEBYTECODE": "1"}


def commit_files(source: Path, files: Mapping[str, str | None], subject: str) -> str:
    """Commit these texts, None for gone, on what is checked out; the commit's full id."""
    for path, text in files.items():
        if text is None:
            (source / path).unlink()
        else:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(text)
    run_git(source, "add", "--all")
    run_git(source, *_AUTHOR, "commit", "--quiet", "--message", subject)
    return run_git(source, "rev-parse", "HEAD").decode().strip()


def make_variant(source: Path, variant: str) -> str:
    """Commit a version that is broken in this way on v2.0.0, tagged `v2.0.1`; the commit's full id."""
    path, old, new = _BREAKS[variant]
    text = (source / path).read_text()
    assert text.count(old) == 1, f"{variant} finds its place in {path} {text.count(old)} times"
    commit = commit_files(source, {path: text.replace(old, new)}, f"Break it: {variant}")
    run_git(source, "tag", "v2.0.1")
    return commit


def make_older(source: Path) -> str:
    """Commit a version whose server is as before the rename: it looks for `.agent-os` alone."""
    files = {"mcp_server/settings.py": '".praxis-os"', "mcp_server/tools.py": '"praxis_os_path"'}
    changed: dict[str, str | None] = {}
    for path, name in files.items():
        text = (source / path).read_text()
        assert text.count(name) == 1, path
        changed[path] = text.replace(name, name.replace("praxis", "agent"))
    return commit_files(source, changed, "Be as before the rename")


def make_dirty(source: Path, *, tracked: bool = True) -> None:
    """Leave an uncommitted change, or a file that git does not know."""
    path = source / ("README.md" if tracked else "notes.md")
    path.write_text("somebody is at work here\n")


def make_without_git(source: Path) -> None:
    """Leave what a downloaded archive would hold."""
    shutil.rmtree(source / ".git")


def shallow_clone(source: Path, folder: Path) -> Path:
    """A clone of the newest commit alone."""
    # Not by run_git, which refuses to fetch from anywhere.
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{source}", str(folder)], check=True)
    return folder


def make_squashed(folder: Path) -> Path:
    """A repository whose one commit has the files of v2.0.0: former versions are not in its history."""
    (*_, newest) = history()
    tree = {**newest.tree, "README.md": File(b"# Begun anew\n")}
    return make_source(folder, commits=[newest._replace(subject="Begin anew", tree=tree)])
