"""A commit in the user's own repository: of exactly these paths, and by the user's rules."""

import os
from collections.abc import Iterable
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.git import GitAnswer, ask_git

__all__ = ["commit_paths"]

# Seconds; hooks may run linters.
_LIMIT = 120.0


def commit_paths(workspace: Path, paths: Iterable[str], message: str) -> bool:
    """Commit what changed at these paths, relative to the workspace; whether there was anything to commit.

    Nothing is where the workspace is in no repository, tracks none of them, or has them as they are. New
    files go in unless they are ignored. What else is staged stays staged and out of the commit. The user's
    hooks, identity and signing hold, as for a commit made by hand.

    Raises:
        UpgradeFailed: git or a hook refused; the index is as it was.
    """
    wanted = set(paths)
    if ask_git(workspace, "rev-parse", "--is-inside-work-tree").stdout.strip() != b"true":
        return False
    tracked = _listed(_ask(workspace, "ls-files", "-z")) & wanted
    if not tracked:
        return False
    new = _listed(_ask(workspace, "ls-files", "-z", "--others", "--exclude-standard")) & wanted
    head = ask_git(workspace, "rev-parse", "--verify", "--quiet", "HEAD")
    if head.code == 0:
        words = ("diff", "--name-only", "-z", "--relative", "--no-renames", "--no-ext-diff", "HEAD")
        tracked &= _listed(_ask(workspace, *words))
    changed = sorted(tracked | new)
    if not changed:
        return False
    if new:
        _ask(workspace, "add", "--intent-to-add", *_FROM_STDIN, feed=_listing(new))
    try:
        # ask_git() runs no hooks; these are the user's own, on the user's own repository. The last -c holds.
        _ask(
            workspace,
            *("-c", f"core.hooksPath={_hooks(workspace)}"),
            *("commit", "--quiet", "--only", "--message", message, *_FROM_STDIN),
            feed=_listing(changed),
        )
    except UpgradeFailed:
        if new:
            # Not rm: in a folder of the repository git 2.39 takes the folder for one more path, and refuses.
            _ask(workspace, "update-index", "--force-remove", "-z", "--stdin", feed=_listing(new))
        raise
    return True


_FROM_STDIN = ("--pathspec-from-file=-", "--pathspec-file-nul")


def _ask(workspace: Path, *words: str, feed: bytes = b"") -> bytes:
    done = ask_git(workspace, "--literal-pathspecs", *words, feed=feed, limit=_LIMIT)
    if done.code != 0:
        raise UpgradeFailed(
            f"git did not commit the upgrade in {str(workspace)!r}: {_said(done)}",
            remediation="commit by hand what `git status` shows, after mending what it says",
            details={"stderr_tail": done.stderr.splitlines()[-20:]},
        )
    return done.stdout


def _said(done: GitAnswer) -> str:
    lines = (done.stderr or done.stdout.decode(errors="replace")).strip().splitlines()
    return lines[-1] if lines else f"code {done.code}"


def _hooks(workspace: Path) -> str:
    """Where the user's hooks are; the last of the settings is mcpkeep's own."""
    found = ask_git(workspace, "config", "--null", "--type=path", "--get-all", "core.hooksPath").stdout
    settings = [path for path in found.split(b"\0") if path]
    if len(settings) > 1:
        return os.fsdecode(settings[-2])
    common = os.fsdecode(ask_git(workspace, "rev-parse", "--git-common-dir").stdout).strip()
    return str(Path(workspace, common).absolute() / "hooks")


def _listed(names: bytes) -> set[str]:
    return {os.fsdecode(name) for name in names.split(b"\0") if name}


def _listing(names: Iterable[str]) -> bytes:
    return b"\0".join(os.fsencode(name) for name in sorted(names))
