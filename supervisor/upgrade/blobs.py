"""Reads file contents from the objects of a repository, many at a time, and checks each against its id."""

from collections.abc import Collection
from pathlib import Path

from mcpkeep.protocol.upgrade.blob import blob_id
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.supervisor.upgrade.git import run_git

__all__ = ["read_blobs"]


def read_blobs(repository: Path, oids: Collection[str]) -> dict[str, bytes]:
    """The contents by object id; one that the repository does not have is not among them.

    Raises:
        UpgradeFailed: git failed, or answered other bytes than the id is of.
    """
    if not oids:
        return {}
    feed = "".join(f"{oid}\n" for oid in oids).encode()
    answer = memoryview(run_git(repository, "cat-file", "--batch", "--buffer", feed=feed))
    found: dict[str, bytes] = {}
    at = 0
    for oid in oids:
        end = at + bytes(answer[at : at + 200]).find(b"\n")
        words = bytes(answer[at:end]).decode().split()
        at = end + 1
        if words[1:] == ["missing"]:
            continue
        if end < 0 or words[:2] != [oid, "blob"]:
            raise _damaged(repository, oid)
        size = int(words[2])
        data = bytes(answer[at : at + size])
        at += size + 1
        if blob_id(data, like=oid) != oid:
            raise _damaged(repository, oid)
        found[oid] = data
    return found


def _damaged(repository: Path, oid: str) -> UpgradeFailed:
    return UpgradeFailed(
        f"object {oid!r} of {str(repository)!r} is damaged, or is no file",
        remediation="run `git fsck` there, and make a new clone of it",
    )
