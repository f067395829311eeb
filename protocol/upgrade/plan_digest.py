"""The digest of a plan's inputs: another digest, a stale plan."""

import hashlib
from collections.abc import Iterable

from mcpkeep.protocol.upgrade.plan import PlannedFile

__all__ = ["digest_of"]


def digest_of(commit: str, files: Iterable[PlannedFile]) -> str:
    """SHA-256 over the source's commit, and what stands at each planned path, in the order given."""
    digest = hashlib.sha256(commit.encode())
    for file in files:
        local = file.local
        state = "absent" if local is None else f"{local.mode} {local.oid}"
        digest.update(f"\0{file.renamed_from or ''}\0{file.path}\0{state}".encode())
    return digest.hexdigest()
