"""Sources as phase 0 meets them: honest, careless and hostile; all that is wrong is said at once."""

import os
import subprocess
from pathlib import Path

import pytest

from mcpkeep.protocol.upgrade import inspection
from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.source import GitSources, export_code, inspect_source
from tests.repositories import Entry, Tree, git, link, make_source, program, submodule

U = "universal/standards/"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def inspect(tmp: Path, source: Path | str, *, signed: bool = False) -> SourceFacts:
    (tmp / "workspace").mkdir(exist_ok=True)
    return inspect_source(
        str(source), require_signed=signed, workspace=tmp / "workspace", cache=Cache(tmp / "cache")
    )


def texts(facts: SourceFacts) -> list[str]:
    assert all(problem.remedy for problem in facts.problems)
    return [problem.text for problem in facts.problems]


def test_an_honest_source_has_its_commit_version_and_server_files(tmp_path: Path) -> None:
    tree: Tree = {"mcp_server/a/b.py": "b\n", "mcp_server/__pycache__/b.pyc": b"\0", U + "x": "x\n"}
    commits = make_source(tmp_path / "source", tree, {**tree, U + "x": "y\n"}, tags=("v1", "v2"))
    facts = inspect(tmp_path, tmp_path / "source")
    assert facts == inspect(tmp_path, tmp_path / "source")
    assert facts == SourceFacts(
        path=str(tmp_path / "source"),
        commit=commits[1],
        version="v2",
        clean=True,
        server_files={
            "__init__.py": git(tmp_path / "source", "rev-parse", "HEAD:mcp_server/__init__.py"),
            "a/b.py": git(tmp_path / "source", "rev-parse", "HEAD:mcp_server/a/b.py"),
        },
    )


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"VERSION.txt": "1.2.3\n", "VERSION": "9"}, "1.2.3"),
        ({"VERSION": "\n 1.2.3 \nmore\n"}, "1.2.3"),
        ({"VERSION.txt": "prAxIs OS\nversion = 1.4\n"}, "1.4"),
        ({"VERSION.txt": "\x1b[31m1.2.3"}, "v1"),
        ({"VERSION.txt": "x" * 2000}, "v1"),
        ({}, "v1"),
    ],
)
def test_the_version_is_what_the_commits_version_file_says_else_its_tag(
    tmp_path: Path, files: dict[str, str], version: str
) -> None:
    make_source(tmp_path / "source", files, tags=("v1",))
    assert inspect(tmp_path, tmp_path / "source").version == version


def test_without_version_file_and_tag_the_commit_is_the_version(tmp_path: Path) -> None:
    (commit,) = make_source(tmp_path / "source", {})
    assert inspect(tmp_path, tmp_path / "source").version == commit[:7]


def test_a_relative_path_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    assert texts(inspect(tmp_path, "source")) == ["source path 'source' is not absolute"]
    missing = str(tmp_path / "nowhere")
    assert texts(inspect(tmp_path, missing)) == [f"there is no folder {missing!r}"]


def test_an_archive_is_refused_even_inside_another_repository(tmp_path: Path) -> None:
    for name in ("mcp_server", "universal"):
        (tmp_path / "outer" / "archive" / name).mkdir(parents=True)
    (archive,) = (tmp_path / "outer" / "archive",)
    assert "is not under git" in texts(inspect(tmp_path, archive))[0]
    make_source(tmp_path / "repository", {"archive/mcp_server/x.py": "x\n"})
    said = texts(inspect(tmp_path, tmp_path / "repository" / "archive"))
    assert said[0].endswith("it is the folder 'archive' of another one")


def test_a_repository_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    git(tmp_path / "source", "init", "-q")
    assert "has no commit 'HEAD'" in texts(inspect(tmp_path, tmp_path / "source"))[0]
    git(tmp_path / "source", "commit", "-q", "--allow-empty", "-m", "nothing")
    assert texts(inspect(tmp_path, tmp_path / "source"))[0].endswith("has no mcp_server/ and no universal/")


@pytest.mark.parametrize(
    ("code", "names", "refused"),
    [
        ({"__main__.py": '".agent-os"'}, (".praxis-os",), True),
        ({"core/find.py": '".agent-os"'}, (".praxis-os",), True),
        ({"__main__.py": '".agent-os"', "core/find.py": '".praxis-os"'}, (".praxis-os",), False),
        ({"__main__.py": "1", "notes.md": ".agent-os"}, (".praxis-os",), False),
        ({"__main__.py": '".agent-os"'}, (".agent-os",), False),
        ({"__main__.py": '".agent-os"'}, (".praxis-os", ".agent-os"), False),
        ({"__main__.py": '".agent-os"'}, (), False),
    ],
)
def test_a_server_that_would_not_find_the_installation_by_its_name_is_refused(
    tmp_path: Path, code: dict[str, str], names: tuple[str, ...], refused: bool
) -> None:
    make_source(tmp_path / "source", {f"mcp_server/{path}": text for path, text in code.items()})
    for name in names[:1]:
        (tmp_path / "workspace" / name).mkdir(parents=True)
    for name in names[1:]:
        (tmp_path / "workspace" / name).symlink_to(names[0])
    for _ in range(2):
        said = texts(inspect(tmp_path, tmp_path / "source"))
        assert [text.partition(": ")[2] for text in said] == ["it looks for '.agent-os' alone"] * refused


def test_a_source_since_november_2025_is_told_as_what_it_is(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_source(source, {"dist/ouroboros/__main__.py": "1\n", U + "x": "x\n", "scripts/x.py": "1\n"})
    git(source, "rm", "-rq", "mcp_server")
    git(source, "commit", "-qm", "Move on")
    assert inspect(tmp_path, source).problems == (inspection.newer(str(source)),)


def test_a_bare_repository_is_refused(tmp_path: Path) -> None:
    make_source(tmp_path / "source", {})
    git(tmp_path, "clone", "-q", "--bare", "source", "bare")
    assert "is a bare repository" in texts(inspect(tmp_path, tmp_path / "bare"))[0]


def test_a_source_in_the_workspace_or_around_it_is_refused(tmp_path: Path) -> None:
    make_source(tmp_path / "workspace" / "source", {})
    assert "is the target" in texts(inspect(tmp_path, tmp_path / "workspace" / "source"))[0]
    make_source(tmp_path / "around", {})
    (tmp_path / "around" / ".praxis-os").mkdir()
    (tmp_path / "workspace" / ".praxis-os").symlink_to(tmp_path / "around" / ".praxis-os")
    assert "is the target" in texts(inspect(tmp_path, tmp_path / "around"))[0]


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    source = tmp_path / "workspace" / "source"
    make_source(
        source,
        {
            U + "lfs.bin": POINTER,
            U + "out": link("../../../etc/passwd"),
            "universal/.universal-manifest.json": '{"files": {"../x": {"checksum": "sha256:0"}}}',
        },
    )
    (source / "mcp_server" / "__init__.py").write_text("edited\n")
    for number in range(5):
        (source / f"new {number}.md").write_text("new\n")
    facts = inspect(tmp_path, source, signed=True)
    assert [text.replace(str(tmp_path), "") for text in texts(facts)] == [
        "source '/workspace/source' is the target: it and '/workspace' lie in each other",
        "source has uncommitted or untracked files: "
        "'mcp_server/__init__.py', 'new 0.md', 'new 1.md' and 3 more",
        f"source is not signed: neither commit {facts.commit[:10]!r} "
        "nor a tag on it carries a valid signature",
        "paths of the source in its .universal-manifest.json cannot be written safely: "
        "'../x' (has '..' in it)",
        "paths of the source are links that lead out: 'universal/standards/out' (to '../../../etc/passwd')",
        "paths of the source are LFS pointers, whose bytes are not in the repository: "
        "'universal/standards/lfs.bin'",
    ]
    assert (facts.clean, facts.signed) == (False, False)


def test_the_index_of_a_source_is_not_refreshed(tmp_path: Path) -> None:
    make_source(tmp_path / "source", {U + "x": "x\n"})
    os.utime(tmp_path / "source" / U / "x", ns=(1, 1))
    index = tmp_path / "source" / ".git" / "index"
    before = os.stat(index)
    assert inspect(tmp_path, tmp_path / "source").clean
    after = os.stat(index)
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_a_hook_and_a_monitor_of_the_source_are_not_run(tmp_path: Path) -> None:
    make_source(tmp_path / "source", {})
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    spy.chmod(0o755)
    for key in ("core.fsmonitor", "gpg.program", "core.sshCommand"):
        git(tmp_path / "source", "config", key, str(spy))
    said = texts(inspect(tmp_path, tmp_path / "source", signed=True))
    assert said == ["source says in its own configuration how signatures are verified: 'gpg.program'"]
    assert not (tmp_path / "ran").exists()


def test_submodules_and_partial_clones_are_refused(tmp_path: Path) -> None:
    make_source(tmp_path / "source", {U + "module": submodule(), "elsewhere": submodule()}, checkout=False)
    git(tmp_path / "source", "read-tree", "HEAD")
    said = texts(inspect(tmp_path, tmp_path / "source"))
    assert said[-1].endswith("whose bytes are not in the repository: 'universal/standards/module'")
    make_source(tmp_path / "full", {U + "x": "x\n"})
    git(tmp_path / "full", "config", "uploadpack.allowFilter", "true")
    url = (tmp_path / "full").as_uri()
    git(tmp_path, "clone", "-q", "--filter=blob:none", "--no-checkout", url, "partial")
    git(tmp_path / "partial", "read-tree", "HEAD")
    assert any("is a partial clone" in text for text in texts(inspect(tmp_path, tmp_path / "partial")))


def test_a_repository_that_is_damaged_is_refused_and_said_so(tmp_path: Path) -> None:
    make_source(tmp_path / "source", {U + "x": "x\n"})
    oid = git(tmp_path / "source", "rev-parse", "HEAD:mcp_server/__init__.py")
    (tmp_path / "source/.git/objects" / oid[:2] / oid[2:]).unlink()
    assert any(
        f"object {oid!r} cannot be read" in text for text in texts(inspect(tmp_path, tmp_path / "source"))
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_source_of_another_user_is_refused_with_what_to_do(tmp_path: Path) -> None:
    make_source(tmp_path / "source", {})
    os.chown(tmp_path / "source", 12345, 12345)
    (problem,) = inspect(tmp_path, tmp_path / "source").problems
    assert "belongs to another user" in problem.text
    assert "git config --global --add safe.directory" in problem.remedy


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key that signs, and a user's configuration that trusts it."""
    path = tmp_path / "key"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", str(path)), check=True)
    (tmp_path / "signers").write_text(f"ada@example.org {path.with_suffix('.pub').read_text()}")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(
        f'[gpg]\n\tformat = ssh\n[gpg "ssh"]\n\tallowedSignersFile = {tmp_path / "signers"}\n'
        f"[log]\n\tshowSignature = true\n[safe]\n\tdirectory = *\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return path


def test_a_signed_commit_and_a_signed_tag_are_told_from_unsigned_ones(tmp_path: Path, key: Path) -> None:
    make_source(tmp_path / "source", {})
    source = tmp_path / "source"
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={key}")
    git(source, "tag", "light")
    git(source, "tag", "-a", "-m", "unsigned", "unsigned")
    facts = inspect(tmp_path, source, signed=True)
    assert (facts.signed, len(facts.problems)) == (False, 1)
    git(source, *signing, "tag", "-s", "-m", "signed", "v1")
    assert inspect(tmp_path, source, signed=True).signed is True
    git(source, *signing, "commit", "-q", "-S", "--allow-empty", "-m", "signed")
    facts = inspect(tmp_path, source, signed=True)
    assert (facts.signed, facts.problems) == (True, ())


HOSTILE: list[tuple[str, Tree, str]] = [
    (
        "absolute link",
        {U + "x": link("/etc/passwd")},
        "are links that lead out: 'universal/standards/x' (to '/etc/passwd')",
    ),
    ("link to another part", {U + "x": link("../workflows/README.md")}, "are links that lead out"),
    (
        "link through a link",
        {U + "x": link("a/b/d/../y"), U + "a/b/d": link("../..")},
        "are links that lead out",
    ),
    ("part that is a link", {"scripts": link("/tmp")}, "cannot be written safely: 'scripts' (is no folder)"),
    (
        "case",
        {U + "Read.md": "1\n", U + "read.md": "2\n"},
        "collide where case or unicode forms are ignored: "
        "'universal/standards/Read.md' (with 'universal/standards/read.md')",
    ),
    (
        "unicode",
        {U + "caf\u00e9": "1\n", U + "cafe\u0301": "2\n"},
        "collide where case or unicode forms are ignored",
    ),
    (
        "line feed",
        {U + "a\nb": "1\n"},
        r"cannot be written safely: 'universal/standards/a\nb' (has control characters)",
    ),
    (
        "not utf-8",
        {U + "\udcff": "1\n"},
        r"cannot be written safely: 'universal/standards/\udcff' (is not UTF-8)",
    ),
    ("long", {U + "d/" * 500 + "x": "1\n"}, "(is longer than 800 bytes)"),
]


@pytest.mark.parametrize(("tree", "words"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_tree_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, tree: Tree, words: str
) -> None:
    (commit,) = make_source(tmp_path / "source", tree, checkout=False)
    said = texts(inspect(tmp_path, tmp_path / "source"))
    assert any(words in text for text in said), said
    with pytest.raises(UpgradeFailed):
        export_code(tmp_path / "source", commit, tmp_path / "out", cache=Cache(None))
    assert not (tmp_path / "out").exists()


def raw_tree(source: Path, *entries: tuple[str, str, str]) -> str:
    """A tree object with names that git's own commands refuse."""
    data = b"".join(
        mode.encode() + b" " + name.encode() + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries
    )
    return git(source, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", feed=data)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("..", "has '..' in it"),
        (".git", "names a repository's own files"),
        ("a/../../../x", "has '..' in it"),
    ],
)
def test_a_tree_that_git_would_not_write_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    source = tmp_path / "source"
    make_source(source, {U + "x": "x\n"})
    blob = git(source, "rev-parse", f"HEAD:{U}x")
    inner = raw_tree(source, ("100644", "evil", blob))
    entry = ("100644", name, blob) if "/" in name else ("40000", name, inner)
    standards = raw_tree(source, entry)
    universal = raw_tree(source, ("40000", "standards", standards))
    server = git(source, "rev-parse", "HEAD:mcp_server")
    root = raw_tree(source, ("40000", "mcp_server", server), ("40000", "universal", universal))
    commit = git(source, "commit-tree", "-m", "hostile", root)
    git(source, "update-ref", "refs/heads/main", commit)
    said = texts(inspect(tmp_path, source))
    assert any("cannot be written safely" in text and reason in text for text in said), said


def test_a_tree_that_has_a_name_twice_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_source(source, {"mcp_server/x/y": "x\n"})
    blob = git(source, "rev-parse", "HEAD:mcp_server/x/y")
    folder = git(source, "rev-parse", "HEAD:mcp_server/x")
    target = git(source, "hash-object", "-w", "--stdin", feed=b"y")
    server = raw_tree(source, ("120000", "x", target), ("40000", "x", folder), ("100644", "z", blob))
    root = raw_tree(source, ("40000", "mcp_server", server))
    git(source, "update-ref", "refs/heads/main", git(source, "commit-tree", "-m", "hostile", root))
    said = texts(inspect(tmp_path, source))
    assert any("collide" in text and "'mcp_server/x'" in text for text in said), said


def test_a_tree_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    make_source(source, {U + "x": "x\n"})
    tree = git(source, "rev-parse", f"HEAD:{U}"[:-1])
    for _ in range(12):
        tree = raw_tree(source, *(("40000", f"d{number}", tree) for number in range(10)))
    root = raw_tree(source, ("40000", "mcp_server", tree))
    git(source, "update-ref", "refs/heads/main", git(source, "commit-tree", "-m", "hostile", root))
    monkeypatch.setattr("mcpkeep.supervisor.upgrade.repository._LISTING_LIMIT", 1 << 20)
    said = texts(inspect(tmp_path, source))
    assert any("has more than 1048576 bytes to say" in text for text in said), said


def test_a_manifest_that_lies_is_counted_and_not_believed(tmp_path: Path) -> None:
    from mcpkeep.supervisor.upgrade.repository import read_tree

    manifest = '{"files": {"standards/x": {"checksum": "sha256:0"}, "gone": {"checksum": "sha256:1"}}}'
    (commit,) = make_source(
        tmp_path / "source", {U + "x": "x\n", "universal/.universal-manifest.json": manifest}
    )
    assert inspect(tmp_path, tmp_path / "source").problems == ()
    tree = read_tree(tmp_path / "source", commit, cache=Cache(None))
    assert " is out of date: 2 of 2 entries; it is not used" in tree.warnings[0]


def test_the_export_has_the_commits_bytes_and_modes_whatever_is_checked_out(tmp_path: Path) -> None:
    tree: Tree = {
        "mcp_server/a b/ü.py": "x\r\ny\n",
        "mcp_server/bin": b"\0\1" * 700_000,
        "mcp_server/to": link("bin"),
        "scripts/run.sh": program("#!/bin/sh\n"),
        ".gitattributes": "*.py text eol=crlf ident\nscripts/* export-ignore\n",
        U + "x": "x\n",
    }
    (commit,) = make_source(tmp_path / "source", tree)
    (tmp_path / "source/mcp_server/bin").write_text("edited\n")
    out = tmp_path / "out"
    assert export_code(tmp_path / "source", commit, out, cache=Cache(None)) == 5
    found = {
        str(path.relative_to(out)): path for path in out.rglob("*") if path.is_symlink() or path.is_file()
    }
    assert set(found) == {
        "mcp_server/__init__.py",
        *(name for name in tree if name.startswith(("mcp", "scr"))),
    }
    assert os.readlink(found["mcp_server/to"]) == "bin"
    for name, value in tree.items():
        if name in found and name != "mcp_server/to":
            data = value.data if isinstance(value, Entry) else value
            assert found[name].read_bytes() == (data.encode() if isinstance(data, str) else data)
    modes = {name: path.stat().st_mode & 0o777 for name, path in found.items() if not path.is_symlink()}
    assert modes == dict.fromkeys(modes, 0o644) | {"scripts/run.sh": 0o755}


def test_an_export_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (commit,) = make_source(tmp_path / "source", {})
    (tmp_path / "out").write_text("in the way\n")
    with pytest.raises(UpgradeFailed, match="the code cannot be written"):
        export_code(tmp_path / "source", commit, tmp_path / "out", cache=Cache(None))


@pytest.mark.anyio
async def test_sources_are_inspected_and_exported_off_the_loop(tmp_path: Path) -> None:
    (commit,) = make_source(tmp_path / "source", {})
    (tmp_path / "workspace").mkdir()
    sources = GitSources(tmp_path / "workspace", cache=Cache(tmp_path / "cache"))
    facts = await sources.inspect(str(tmp_path / "source"), require_signed=False)
    assert (facts.commit, facts.problems) == (commit, ())
    assert await sources.export_code(facts.path, facts.commit, str(tmp_path / "out")) == 1
