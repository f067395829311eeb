"""A source repository, read through its objects; what a commit says once is not asked of git again."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from mcpkeep.protocol.upgrade.facts import Problem
from mcpkeep.protocol.upgrade.git_listing import LOG_FORMAT, TreeEntry, parse_log, parse_tree
from mcpkeep.protocol.upgrade.history import History
from mcpkeep.protocol.upgrade.places import PARTS
from mcpkeep.protocol.upgrade.source_tree import (
    LARGEST_FILE,
    MANIFEST_PATH,
    POINTER_LIMIT,
    VERSION_FILES,
    SourceTree,
    judge_tree,
)
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.git import Blobs, ask_git, list_bounded

__all__ = [
    "NotASource",
    "RepositoryFacts",
    "algorithm_of",
    "describe",
    "read_facts",
    "read_history",
    "read_tree",
]

_DESCRIBE = ("describe", "--tags", "--always", "--abbrev=7")
"""The words for git that name a commit by the tag it has, or comes after."""

# Raised by one whenever what is cached means something else.
_FORMAT = 2
_LISTING_LIMIT = 64 * 1024 * 1024  # bytes; some 500,000 files. A tree that holds itself tenfold has more.
_LOG_LIMIT = 512 * 1024 * 1024  # bytes; some 3,000,000 changes
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LOG = (
    *("-c", "log.showSignature=false", "-c", "log.showRoot=true", "log", "--full-history", "--sparse"),
    *("--topo-order", "--reverse", "--raw", "-z", "-M", "-l1000", "--no-rename-empty", "--no-abbrev"),
    *("--diff-merges=first-parent", "--no-ext-diff", "--no-textconv", f"--format={LOG_FORMAT}"),
)


class NotASource(Exception):
    """The folder cannot be read as a repository at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


class RepositoryFacts(NamedTuple):
    """What changes in a repository from one day to the next."""

    folder: Path
    commit: str
    """The full object id that was asked for."""
    shallow: bool
    bare: bool
    prefix: str
    """Where the folder lies in the repository; empty for its root."""
    common_dir: Path
    refs: tuple[str, ...]
    """Object ids of the branches and tags."""


def algorithm_of(oid: str) -> str:
    """The hash that an object id is of."""
    return "sha1" if len(oid) == 40 else "sha256"


def read_facts(folder: Path, commit: str = "HEAD") -> RepositoryFacts:
    """Ask a repository how it is, with one call of git.

    Raises:
        NotASource: it is no repository, belongs to another user, or has no such commit.
        UpgradeFailed: git cannot be run.
    """
    done = ask_git(
        folder,
        *(
            "rev-parse",
            "--is-bare-repository",
            "--is-shallow-repository",
            "--show-prefix",
            "--git-common-dir",
        ),
        *(f"{commit}^{{commit}}", "--branches", "--tags", "--remotes"),
    )
    if done.code != 0:
        raise NotASource(_why_not(folder, commit, done.stderr))
    bare, shallow, prefix, common, *oids = done.stdout.decode(errors="surrogateescape").split("\n")
    oids = [oid for oid in oids if _OID.fullmatch(oid)]
    return RepositoryFacts(
        folder=folder,
        commit=oids[0],
        shallow=shallow == "true",
        bare=bare == "true",
        prefix=prefix.rstrip("/"),
        common_dir=folder / common,
        refs=tuple(sorted(set(oids[1:]))),
    )


def read_tree(folder: Path, commit: str, *, cache: Cache) -> SourceTree:
    """Everything that the commit would install. Raises UpgradeFailed where its objects cannot be read."""
    key = f"tree-{_FORMAT}-{commit}"
    kept = cache.read(key, SourceTree)
    if kept is not None:
        return kept
    wanted = (*sorted({part.source.partition("/")[0] for part in PARTS}), *VERSION_FILES)
    listing = list_bounded(
        folder, "ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--", *wanted, most=_LISTING_LIMIT
    )
    entries = list(parse_tree(listing))
    small: dict[str, bytes] = {}
    checksums: dict[str, str] = {}
    with Blobs(folder) as blobs:
        for entry in entries:
            if entry.mode is not None and entry.oid not in small and _is_small(entry):
                small[entry.oid] = blobs.read(entry.oid)
        if any(entry.path == MANIFEST_PATH for entry in entries):
            for entry in entries:
                if _is_listed(entry):
                    digest = hashlib.sha256()
                    for chunk in blobs.open(entry.oid).chunks:
                        digest.update(chunk)
                    checksums[entry.path.removeprefix("universal/")] = digest.hexdigest()
    tree = judge_tree(entries, small, checksums)
    cache.write(key, tree)
    return tree


def read_history(folder: Path, facts: RepositoryFacts, *, cache: Cache) -> History:
    """Every version that the installed paths had in what the commit, branches and tags can reach.

    Raises UpgradeFailed where git cannot walk it.
    """
    key = f"history-{_FORMAT}-{_history_key(facts)}"
    kept = cache.read(key, History)
    if kept is not None:
        return kept
    parts = [part.source for part in PARTS]
    log = list_bounded(
        folder, *_LOG, facts.commit, *("--branches", "--tags", "--remotes"), "--", *parts, most=_LOG_LIMIT
    )
    history = History(parse_log(log))
    cache.write(key, history)
    return history


def describe(folder: Path, facts: RepositoryFacts, oid: str, *, cache: Cache) -> str:
    """What the repository calls a commit: its tag, how far it is from one, or the beginning of its id.

    Raises UpgradeFailed where git cannot be run.
    """
    key = f"describe-{_FORMAT}-{oid}-{_history_key(facts)}"
    kept = cache.read(key, str)
    if kept is not None:
        return kept
    done = ask_git(folder, *_DESCRIBE, oid)
    name = done.stdout.decode(errors="replace").strip() if done.code == 0 else ""
    cache.write(key, name or oid[:7])
    return name or oid[:7]


def leads_to(folder: Path, facts: RepositoryFacts, oid: str, other: str, *, cache: Cache) -> bool:
    """Whether a commit is an ancestor of another one. Raises UpgradeFailed where git cannot be run."""
    key = f"leads-{_FORMAT}-{oid}-{other}-{_history_key(facts)}"
    kept = cache.read(key, bool)
    if kept is None:
        kept = ask_git(folder, "merge-base", "--is-ancestor", oid, other).code == 0
        cache.write(key, kept)
    return kept


def _history_key(facts: RepositoryFacts) -> str:
    """A shallow clone that is deepened keeps its refs and not its history."""
    try:
        edge = (facts.common_dir / "shallow").read_bytes()
    except OSError:
        edge = b""
    words = (facts.commit.encode(), b"\0".join(ref.encode() for ref in facts.refs), edge)
    return hashlib.sha256(b"\1".join(words)).hexdigest()


def _is_small(entry: TreeEntry) -> bool:
    if entry.path == MANIFEST_PATH:
        return entry.size <= LARGEST_FILE
    return entry.size < POINTER_LIMIT


def _is_listed(entry: TreeEntry) -> bool:
    return entry.mode is not None and entry.path.startswith("universal/") and entry.size <= LARGEST_FILE


def _why_not(folder: Path, commit: str, said: str) -> Problem:
    if "dubious ownership" in said:
        return Problem(
            f"source {str(folder)!r} belongs to another user, so git does not read it",
            f"if you trust it: git config --global --add safe.directory {str(folder)!r}",
        )
    if "not a git repository" in said:
        return Problem(
            f"source {str(folder)!r} is not a praxis-os repository: it is not under git",
            "clone the repository; a downloaded archive has no history and cannot be used",
        )
    if "unknown revision" in said or "ambiguous argument" in said or "Needed a single" in said:
        return Problem(
            f"source {str(folder)!r} has no commit {commit!r}",
            "check out the version that is to be installed",
        )
    last = said.splitlines()[-1] if said else "git said nothing"
    return Problem(
        f"source {str(folder)!r} cannot be read: {last}", "run git status there, and mend what it says"
    )
