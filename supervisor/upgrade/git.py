"""Runs git so that it changes nothing it is not told to: no hooks, no monitor, no locks, no prompts."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["GIT_LIMIT", "run_git"]

GIT_LIMIT = 120.0
"""Seconds for one call; the history of a large repository from a cold disk takes some."""

_QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")
_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def run_git(
    folder: Path, *words: str, feed: bytes = b"", accept: Sequence[int] = (0,), limit: float = GIT_LIMIT
) -> bytes:
    """What git says on stdout when run in `folder`, with `feed` on its stdin.

    Raises:
        UpgradeFailed: git is missing, took too long, or ended with a code that is not in `accept`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ("git", *_QUIET, *words),
            cwd=folder,
            env={**environment, **_ENVIRONMENT},
            input=feed,
            capture_output=True,
            timeout=limit,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise UpgradeFailed(
            "git is not installed, or the folder is gone", remediation="install git and try again"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UpgradeFailed(
            f"git {words[0]} took longer than {limit:g} s", remediation="look at the repository's disk"
        ) from error
    if done.returncode not in accept:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UpgradeFailed(
            f"git {words[0]} failed in {str(folder)!r}: {said[-1] if said else f'code {done.returncode}'}",
            remediation="run it there by hand, and mend what it says",
            details={"command": ["git", *words], "stderr": said[-20:]},
        )
    return done.stdout
