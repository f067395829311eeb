"""A small prAxIs OS to upgrade, for the demo and the tests: a repository, packages, and an installation.

It has the layout and the habits of the real one, and a server that speaks MCP. Nothing needs a network.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from uv import find_uv_bin

from mcpkeep.protocol.upgrade.places import BASES, PARTS, USER_ONLY
from mcpkeep.supervisor.upgrade.git import run_git
from mcpkeep.supervisor.upgrade.sample_history import Commit, File, Tree, history
from mcpkeep.supervisor.upgrade.sample_wheels import write_wheels

__all__ = ["Bulk", "World", "build_index", "install", "make_source", "make_world", "packages_environment"]

_BEGAN = 1_759_300_000
"""When the first commit was made, in seconds since 1970; the commits' ids are the same each time."""
_DAY = 86_400
_AUTHOR = "A. Author <author@example.org>"
_HELD = {"v1": ("mcpkeep-sample-calendar==1.0.0", "mcpkeep-sample-tokens==1.0.0")}
"""What was the newest when a version was installed."""
_NOT_INSTALLED = ("__pycache__", ".pyc", ".DS_Store")


class Bulk(NamedTuple):
    """Further files in universal/standards, to reach a size."""

    files: int
    bytes: int
    """Of all of them."""
    changed: float = 0.1
    """The share of them that v2.0.0 changes."""
    suffix: str = ".md"
    """With another one the server does not search them."""


class World(NamedTuple):
    """The sample world in one folder."""

    source: Path
    """A git repository, v2.0.0 checked out."""
    wheels: Path
    workspace: Path
    environment: Mapping[str, str]
    """For whatever installs packages: they come from `wheels`, and from nowhere else."""

    @property
    def base(self) -> Path:
        """The installation's folder."""
        return next(self.workspace / name for name in BASES if (self.workspace / name).exists())


def make_world(
    folder: Path, *, version: str = "v1.1.0", base: str = BASES[0], bulk: Bulk | None = None
) -> World:
    """Make all of it in `folder`, with that version installed and its index built. Takes about a second."""
    wheels = folder / "wheels"
    write_wheels(wheels)
    environment = packages_environment(wheels)
    source = make_source(folder / "source", bulk=bulk)
    workspace = folder / "project"
    install(workspace, source, version, environment=environment, base=base)
    return World(source, wheels, workspace, environment)


def packages_environment(wheels: Path) -> dict[str, str]:
    """The variables that let uv and pip install from that folder alone, which `write_wheels` has filled."""
    return {
        "UV_FIND_LINKS": str(wheels),
        "UV_CONFIG_FILE": str(wheels / "uv.toml"),
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_INDEX": "1",
    }


def make_source(folder: Path, *, commits: Sequence[Commit] | None = None, bulk: Bulk | None = None) -> Path:
    """Make a git repository of the commits, the newest checked out and clean; usually the sample's own."""
    folder.mkdir(parents=True)
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    run_git(folder, "config", "core.autocrlf", "false")
    command = ("git", "-c", "core.compression=0", "fast-import", "--quiet", "--depth=0")
    with subprocess.Popen(command, cwd=folder, env=_environment(), stdin=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        for piece in _stream(history() if commits is None else commits, bulk):
            importing.stdin.write(piece)
    run_git(folder, "reset", "--quiet", "--hard", "main")
    return folder


def _stream(commits: Sequence[Commit], bulk: Bulk | None) -> Iterator[bytes]:
    """What git fast-import reads."""
    before: Tree = {}
    more: Tree = {} if bulk is None else _bulk(bulk, range(bulk.files), b"old")
    for number, commit in enumerate(commits):
        if bulk is not None and commit.tag == "v2.0.0":
            more = {**more, **_bulk(bulk, range(int(bulk.files * bulk.changed)), b"new")}
        tree = {**commit.tree, **more}
        when = f"{_AUTHOR} {_BEGAN + number * _DAY} +0000"
        yield f"commit refs/heads/main\nmark :{number + 1}\ncommitter {when}\n".encode()
        yield _data(commit.subject.encode() + b"\n")
        for path in sorted(before.keys() - tree.keys()):
            yield f"D {_quoted(path)}\n".encode()
        for path, file in tree.items():
            if before.get(path) != file:
                yield f"M {'100755' if file.executable else '100644'} inline {_quoted(path)}\n".encode()
                yield _data(file.data)
        before = tree
        if commit.tag:
            yield f"tag {commit.tag}\nfrom :{number + 1}\ntagger {when}\n".encode() + _data(b"release\n")


def _data(data: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(data), data)


def _quoted(path: str) -> str:
    return '"{}"'.format(path.replace("\\", "\\\\").replace('"', '\\"'))


def _bulk(bulk: Bulk, numbers: Iterable[int], word: bytes) -> dict[str, File]:
    """Files that differ in their heads alone."""
    size = bulk.bytes // bulk.files
    line = b"a rule is there for a reason which somebody knew once and may have forgotten since " * 12 + b"\n"
    lines = line * (size // len(line) + 1)
    files: dict[str, File] = {}
    for number in numbers:
        head = b"# Rule %d\n\nThe %s one.\n\n" % (number, word)
        path = f"universal/standards/bulk/{number // 500:03d}/rule-{number:05d}{bulk.suffix}"
        files[path] = File(head + lines[len(head) : size - 1] + b"\n")
    return files


def install(
    workspace: Path, source: Path, version: str, *, environment: Mapping[str, str], base: str = BASES[0]
) -> Path:
    """Install that version as upstream's script does, and build its index; the installation's folder.

    Raises subprocess.CalledProcessError where the packages cannot be installed.
    """
    root = workspace / base
    root.mkdir(parents=True)
    command = ("git", "archive", "--format=tar", version)
    with (
        subprocess.Popen(command, cwd=source, env=_environment(), stdout=subprocess.PIPE) as archive,
        tarfile.open(fileobj=archive.stdout, mode="r|") as tar,
    ):
        for member in tar:
            target = _installed(member.name)
            if target is None or not member.isfile():
                continue
            path = root / target
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            path.write_bytes(content.read())
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
    for name in USER_ONLY:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / ".cache" / "state").mkdir(parents=True)
    _make_venv(root, version, environment)
    build_index(root)
    return root


def build_index(root: Path) -> None:
    """Build the search index by the installation's own script, as the server does at its first start."""
    _run(root / "venv" / "bin" / "python", root / "scripts" / "build_rag_index.py")


def _installed(path: str) -> str | None:
    for part in PARTS:
        if path.startswith(part.source + "/") and not path.endswith(_NOT_INSTALLED):
            return part.installed + path[len(part.source) :]
    return None


def _make_venv(root: Path, version: str, environment: Mapping[str, str]) -> None:
    venv = root / "venv"
    uv = find_uv_bin()
    held = root / ".cache" / "held.txt"
    held.write_text("\n".join(_HELD.get(version.split(".")[0], ())) + "\n")
    _run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, venv, environment=environment)
    _run(
        *(uv, "pip", "install", "--quiet", "--python", venv, "--constraints", held),
        *("--requirements", root / "mcp_server" / "requirements.txt"),
        environment=environment,
    )
    held.unlink()


def _run(*command: Path | str, environment: Mapping[str, str] | None = None) -> None:
    env = {**_environment(), **(environment or {})}
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, env=env)


def _environment() -> dict[str, str]:
    """Ours, but what a git hook that we may run under says of another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
