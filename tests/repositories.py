"""Real source repositories for tests, written by git fast-import: many commits in a few milliseconds."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Entry", "git", "install", "link", "make_source", "program", "submodule"]


class Entry(NamedTuple):
    """A file of a tree with its mode; plain bytes or text stand for an ordinary file."""

    data: bytes
    mode: str = "100644"


Tree = Mapping[str, "bytes | str | Entry"]

_PARTS = (
    ("universal/standards/", "standards/universal/"),
    ("universal/workflows/", "workflows/"),
    ("universal/usage/", "usage/"),
    ("mcp_server/", "mcp_server/"),
    ("scripts/", "scripts/"),
)
_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def link(target: str) -> Entry:
    return Entry(target.encode(), "120000")


def program(text: str) -> Entry:
    return Entry(text.encode(), "100755")


def submodule(oid: str = "1" * 40) -> Entry:
    return Entry(oid.encode(), "160000")


def git(folder: Path, *words: str, feed: bytes = b"") -> str:
    """Run git as a user would, without this machine's configuration."""
    done = subprocess.run(
        ("git", "-C", str(folder), "-c", "gc.auto=0", "-c", "protocol.file.allow=always", *words),
        input=feed,
        capture_output=True,
        check=True,
        env=os.environ | _ENVIRONMENT,
    )
    return done.stdout.decode(errors="surrogateescape").strip()


def make_source(folder: Path, *versions: Tree, tags: Sequence[str] = (), checkout: bool = True) -> list[str]:
    """A repository whose commits have these whole trees, oldest first, after a first one; their object ids.

    Every tree has an `mcp_server/__init__.py` and a `universal/workflows/README.md` besides.
    """
    versions = ({}, *versions)
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    marks = folder / ".git" / "marks"
    stream: list[bytes] = []
    for number, version in enumerate(versions):
        said = f"version {number + 1}".encode()
        stream.append(b"commit refs/heads/main\nmark :%d\n" % (number + 1))
        stream.append(b"committer Ada <ada@example.org> %d +0000\n" % (1_700_000_000 + number))
        stream.append(b"data %d\n%b\ndeleteall\n" % (len(said), said))
        tree: Tree = {"mcp_server/__init__.py": "# server\n", "universal/workflows/README.md": "# flows\n"}
        for path, value in {**tree, **version}.items():
            entry = _entry(value)
            if entry.mode == "160000":
                stream.append(b"M 160000 %b %b\n" % (entry.data, _quoted(path)))
            else:
                stream.append(b"M %b inline %b\n" % (entry.mode.encode(), _quoted(path)))
                stream.append(b"data %d\n%b\n" % (len(entry.data), entry.data))
    git(folder, "fast-import", "--quiet", f"--export-marks={marks}", feed=b"".join(stream))
    commits = [line.split()[1] for line in sorted(marks.read_text().splitlines(), key=_mark)]
    del commits[0]
    for tag, commit in zip(tags, commits, strict=False):
        if tag:
            git(folder, "tag", tag, commit)
    if checkout:
        git(folder, "reset", "-q", "--hard")
    return commits


def install(tree: Tree, base: Path) -> None:
    """Put a version's files where upstream's installer puts them."""
    standing: Tree = {"mcp_server/__init__.py": "# server\n", "universal/workflows/README.md": "# flows\n"}
    for path, value in {**standing, **tree}.items():
        for source, installed in _PARTS:
            if path.startswith(source):
                target = base / (installed + path.removeprefix(source))
                target.parent.mkdir(parents=True, exist_ok=True)
                entry = _entry(value)
                if entry.mode == "120000":
                    target.symlink_to(entry.data.decode())
                else:
                    target.write_bytes(entry.data)
                    target.chmod(0o755 if entry.mode == "100755" else 0o644)


def _entry(value: bytes | str | Entry) -> Entry:
    if isinstance(value, Entry):
        return value
    return Entry(value.encode() if isinstance(value, str) else value)


def _quoted(path: str) -> bytes:
    return b'"' + b"".join(b"\\%03o" % byte for byte in path.encode(errors="surrogateescape")) + b'"'


def _mark(line: str) -> int:
    return int(line.split()[0][1:])
