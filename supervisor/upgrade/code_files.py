"""Which files are a server's code, and their digests. Asked on the way to the first child: few imports."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mcpkeep.protocol.bases import BASES

if TYPE_CHECKING:
    from mcpkeep.supervisor.upgrade.command import Stopper

__all__ = ["code_digests", "is_code", "walk_code"]

_NO_CODE = frozenset({"__pycache__", ".DS_Store", ".pytest_cache", ".mypy_cache", *BASES, ".cursor"})
"""As upstream's install script leaves out."""


def is_code(name: str) -> bool:
    """Whether a file or folder of this name is part of the code, and not a trace of running it."""
    return name not in _NO_CODE and not name.endswith(".pyc")


def code_digests(folder: Path, *, stopper: "Stopper | None" = None) -> dict[str, str]:
    """SHA-256 by path below, of a file's bytes or a link's target; empty where there is no such folder."""
    return {
        path: hashlib.sha256(
            os.fsencode(os.readlink(folder / path)) if link else (folder / path).read_bytes()
        ).hexdigest()
        for path, link in walk_code(folder, stopper)
    }


def walk_code(folder: Path, stopper: "Stopper | None") -> list[tuple[str, bool]]:
    """The code's paths below, sorted, and whether each is a link; empty where there is no such folder.

    Raises UpgradeFailed where something is neither file, folder nor link.
    """
    found: list[tuple[str, bool]] = []
    queue = [""]
    while queue:
        if stopper is not None:
            stopper.check()
        inside = queue.pop()
        try:
            entries = os.scandir(folder / inside)
        except FileNotFoundError:
            if inside:
                raise
            return []
        with entries:
            for entry in entries:
                path = f"{inside}{entry.name}"
                if not is_code(entry.name):
                    continue
                if entry.is_symlink():
                    found.append((path, True))
                elif entry.is_dir():
                    queue.append(f"{path}/")
                elif entry.is_file():
                    found.append((path, False))
                else:
                    from mcpkeep.protocol.upgrade.failure import UpgradeFailed

                    raise UpgradeFailed(
                        f"{entry.path!r} is neither file, folder nor link", remediation="remove it"
                    )
    return sorted(found)
