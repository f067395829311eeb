"""Source repositories: what phase 0 finds out about one, and the export of its code."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from mcpkeep.protocol.upgrade import inspection
from mcpkeep.protocol.upgrade.facts import Problem, SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.git_listing import parse_status
from mcpkeep.protocol.upgrade.places import BASES, CODE_PARTS, REQUIREMENTS
from mcpkeep.protocol.upgrade.requirements import read_requirements
from mcpkeep.protocol.upgrade.source_tree import SourceTree
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.git import Blob, Blobs, GitAnswer, ask_git, ask_many
from mcpkeep.supervisor.upgrade.layout import find_installation
from mcpkeep.supervisor.upgrade.repository import NotASource, describe, read_facts, read_tree

__all__ = ["GitSources", "export_code", "inspect_source"]

_SERVER = "mcp_server/"
_NEWER = "dist/ouroboros"
_STATUS = ("status", "--porcelain", "-z", "--untracked-files=all", "--ignore-submodules=none")
_PARTIAL = ("config", "--local", "--get-regexp", r"^(remote\..*\.promisor|extensions\.partialclone)$")
_SIGNERS = ("config", "--local", "--name-only", "--get-regexp", r"^gpg\.")


class GitSources:
    """Sources, in threads of their own; cancellation waits for the call of git that runs."""

    def __init__(self, workspace: Path, *, cache: Cache, calls: FileCalls = OS_CALLS) -> None:
        self._workspace = workspace
        self._cache = cache
        self._calls = calls
        self._limiter = anyio.CapacityLimiter(1)

    async def inspect(self, path: str, *, require_signed: bool) -> SourceFacts:
        return await anyio.to_thread.run_sync(
            lambda: inspect_source(
                path, require_signed=require_signed, workspace=self._workspace, cache=self._cache
            ),
            limiter=self._limiter,
        )

    async def export_code(self, path: str, commit: str, folder: str) -> int:
        return await anyio.to_thread.run_sync(
            lambda: export_code(
                Path(path),
                commit,
                Path(folder),
                cache=self._cache,
                calls=self._calls,
                check=anyio.from_thread.check_cancelled,
            ),
            limiter=self._limiter,
        )


def inspect_source(path: str, *, require_signed: bool, workspace: Path, cache: Cache) -> SourceFacts:
    """All that is wrong with a source at once, as far as it can be read. Raises UpgradeFailed without git."""
    if not os.path.isabs(path):
        return SourceFacts(path, problems=(inspection.not_absolute(path),))
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        return SourceFacts(real, problems=(inspection.missing(path),))
    source = Path(real)
    cache = cache.without(workspace, source)
    problems = _overlaps(source, workspace)
    try:
        facts = read_facts(source)
    except NotASource as error:
        return SourceFacts(real, problems=(*problems, error.problem))
    if facts.bare:
        return SourceFacts(real, commit=facts.commit, problems=(*problems, inspection.bare(real)))
    if facts.prefix:
        return SourceFacts(real, problems=(*problems, inspection.not_the_root(real, facts.prefix)))
    # First, because git itself would follow a hostile tree to its end.
    try:
        tree = read_tree(source, facts.commit, cache=cache)
    except UpgradeFailed as error:
        partial = ask_git(source, *_PARTIAL).stdout
        problem = inspection.partial(real) if partial else Problem(str(error), error.remediation)
        return SourceFacts(real, commit=facts.commit, problems=(*problems, problem))
    status, partials = ask_many(source, _STATUS, _PARTIAL)
    changed = tuple(parse_status(_said(source, status, "status")))
    if changed:
        problems.append(inspection.dirty(changed))
    signed = _is_signed(source, facts.commit, problems) if require_signed else None
    if partials.stdout:
        problems.append(inspection.partial(real))
    lacking = [name for name in ("mcp_server", "universal") if not _has(tree, name)]
    if "mcp_server" in lacking and ask_git(source, "cat-file", "-e", f"{facts.commit}:{_NEWER}").code == 0:
        problems.append(inspection.newer(real))
    elif lacking:
        problems.append(inspection.not_praxis_os(real, lacking))
    installed = find_installation(workspace)
    newest, older = BASES
    if installed and older not in installed.names and _names_older_alone(source, facts.commit, tree, cache):
        problems.append(inspection.unfound(real, older, newest))
    problems.extend(tree.problems)
    return SourceFacts(
        real,
        commit=facts.commit,
        version=tree.version or describe(source, facts, facts.commit, cache=cache),
        clean=not changed,
        signed=signed,
        server_files=_server_files(tree),
        requirements_sha256=_requirements(source, facts.commit, tree, cache),
        problems=tuple(problems),
    )


def export_code(
    source: Path,
    commit: str,
    folder: Path,
    *,
    cache: Cache,
    calls: FileCalls = OS_CALLS,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Write mcp_server/ and scripts/ of the commit into `folder`, durably; how many files.

    `check` is called between files, and may raise. Raises UpgradeFailed where the commit has problems, or
    `folder` cannot be written; what it has begun is its caller's to remove.
    """
    tree = read_tree(source, commit, cache=cache.without(source))
    if tree.problems:
        raise UpgradeFailed(tree.problems[0].text, remediation=tree.problems[0].remedy)
    roots = tuple(part.installed + "/" for part in CODE_PARTS)
    files = {path: version for path, version in tree.files.items() if path.startswith(roots)}
    folders = {folder / parent for path in files for parent in Path(path).parents}
    try:
        for parent in sorted(folders):
            make_folders(parent, calls=calls)
        with Blobs(source) as blobs:
            for path, version in sorted(files.items()):
                check()
                blob = blobs.open(version.oid)
                if version.mode == "120000":
                    os.symlink(os.fsdecode(b"".join(blob.chunks)), folder / path)
                else:
                    _write(folder / path, blob, 0o755 if version.mode == "100755" else 0o644, calls)
        for parent in sorted(folders, reverse=True):
            calls.fsync_folder(parent)
    except OSError as error:
        raise UpgradeFailed(
            f"the code cannot be written to {str(folder)!r}: {(error.strerror or str(error)).lower()}",
            remediation="free space, or permissions, and try again",
        ) from error
    return len(files)


def _overlaps(source: Path, workspace: Path) -> list[Problem]:
    """A workspace's own folder may be a link, so both count."""
    layout = find_installation(workspace)
    others = {Path(os.path.realpath(workspace)), *(() if layout is None else (layout.base,))}
    return [
        inspection.within(str(source), str(other))
        for other in sorted(others)
        if source.is_relative_to(other) or other.is_relative_to(source)
    ][:1]


def _is_signed(source: Path, commit: str, problems: list[Problem]) -> bool:
    signers = ask_git(source, *_SIGNERS).stdout.decode(errors="replace").split()
    if signers:
        # Otherwise the source would bring its own judge, or a program to run.
        problems.append(inspection.own_signers(signers))
        return False
    if ask_git(source, "verify-commit", commit).code == 0:
        return True
    tags = ask_git(source, "tag", "--points-at", commit).stdout.decode(errors="surrogateescape").splitlines()
    if any(ask_git(source, "verify-tag", f"refs/tags/{tag}").code == 0 for tag in tags):
        return True
    problems.append(inspection.unsigned(commit))
    return False


def _said(source: Path, answer: GitAnswer, name: str) -> bytes:
    if answer.code != 0:
        raise UpgradeFailed(
            f"git {name} failed in {str(source)!r}: {answer.stderr}",
            remediation="run it there by hand, and mend what it says",
        )
    return answer.stdout


def _has(tree: SourceTree, name: str) -> bool:
    roots = ("standards/universal/", "workflows/", "usage/") if name == "universal" else (name + "/",)
    return any(path.startswith(roots) for path in tree.files)


def _requirements(source: Path, commit: str, tree: SourceTree, cache: Cache) -> str | None:
    """The digest of what the commit's server requires; None where that cannot be read."""
    key = f"requirements-{commit}"
    kept = cache.read(key, str)
    if kept is not None:
        return kept
    with Blobs(source) as blobs:

        def read(path: str) -> str | None:
            version = tree.files.get(path)
            return None if version is None else blobs.read(version.oid).decode(errors="replace")

        try:
            digest = read_requirements(REQUIREMENTS, read).sha256
        except UpgradeFailed:
            return None
    cache.write(key, digest)
    return digest


def _names_older_alone(source: Path, commit: str, tree: SourceTree, cache: Cache) -> bool:
    """Whether the commit's server knows an installation by its older name only.

    By another name it would not find this one, but perhaps one in the home folder, and write there.
    """
    key = f"names-{commit}"
    kept = cache.read(key, bool)
    if kept is not None:
        return kept
    newest, older = (name.encode() for name in BASES)
    found = False
    with Blobs(source) as blobs, suppress(UpgradeFailed):  # what cannot be read is told as a problem
        for path, version in sorted(tree.files.items()):
            if path.startswith(_SERVER) and path.endswith(".py"):
                code = blobs.read(version.oid)
                if newest in code:
                    found = False
                    break
                found = found or older in code
        cache.write(key, found)
    return found


def _server_files(tree: SourceTree) -> dict[str, str]:
    return {
        path.removeprefix(_SERVER): version.oid
        for path, version in tree.files.items()
        if path.startswith(_SERVER)
    }


def _write(target: Path, blob: Blob, mode: int, calls: FileCalls) -> None:
    fd = calls.create(target)
    try:
        for chunk in blob.chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[calls.write(fd, rest) :]
        os.fchmod(fd, mode)
        calls.fsync(fd)
    finally:
        calls.close(fd)
