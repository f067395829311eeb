"""What phase 0 refuses a source for, in words: the fact, and the remedy."""

from collections.abc import Sequence

from mcpkeep.protocol.upgrade.facts import Problem
from mcpkeep.protocol.upgrade.source_tree import enumerate_some

__all__ = [
    "bare",
    "dirty",
    "missing",
    "newer",
    "not_absolute",
    "not_praxis_os",
    "not_the_root",
    "own_signers",
    "partial",
    "unfound",
    "unsigned",
    "within",
]


def not_absolute(path: str) -> Problem:
    return Problem(f"source path {path!r} is not absolute", "give the full path, starting with '/'")


def missing(path: str) -> Problem:
    return Problem(
        f"there is no folder {path!r}", "name the folder of a praxis-os clone; the path may be mistyped"
    )


def within(source: str, other: str) -> Problem:
    return Problem(
        f"source {source!r} is the target: it and {other!r} lie in each other", "use a clone outside of it"
    )


def bare(source: str) -> Problem:
    return Problem(
        f"source {source!r} is a bare repository, in which nothing is checked out",
        "make a clone of it, and name that",
    )


def not_the_root(source: str, prefix: str) -> Problem:
    return Problem(
        f"source {source!r} is not a praxis-os repository: it is the folder {prefix!r} of another one",
        "clone the repository; a downloaded archive has no history and cannot be used",
    )


def not_praxis_os(source: str, lacking: Sequence[str]) -> Problem:
    return Problem(
        f"source {source!r} is not a praxis-os repository: its commit has no "
        + " and no ".join(f"{name}/" for name in lacking),
        "clone the praxis-os repository, and check out the version that is to be installed",
    )


def unfound(source: str, older: str, newer: str) -> Problem:
    return Problem(
        f"source {source!r} has a server of before 2025-10-27: it looks for {older!r} alone",
        f"let that name lead to the installation (`ln -s {newer} {older}` in the workspace), or check out a "
        "newer version",
    )


def newer(place: str) -> Problem:
    """A source, or an installation."""
    return Problem(
        f"{place!r} is a prAxIs OS of the layout since November 2025, whose server is ouroboros: this "
        "version of mcpkeep does not upgrade that",
        "use its own scripts/upgrade-praxis-os.py; `mcpkeep run` keeps its server up all the same, or "
        "`mcpkeep run -- .praxis-os/venv/bin/python -m ouroboros --transport dual`",
    )


def dirty(paths: Sequence[str]) -> Problem:
    return Problem(
        f"source has uncommitted or untracked files: {enumerate_some(paths)}",
        "commit or stash there, or make a second clone; do not delete files you do not know",
    )


def partial(source: str) -> Problem:
    return Problem(
        f"source {source!r} is a partial clone: the commit's bytes are not all in the repository",
        "make a full clone",
    )


def unsigned(commit: str) -> Problem:
    return Problem(
        f"source is not signed: neither commit {commit[:10]!r} nor a tag on it carries a valid signature",
        "check out a signed tag, and have its signer's key in your key ring",
    )


def own_signers(keys: Sequence[str]) -> Problem:
    return Problem(
        f"source says in its own configuration how signatures are verified: {enumerate_some(keys)}",
        "take that out of the repository's configuration, and put it into your global one",
    )
