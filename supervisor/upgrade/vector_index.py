"""The vector index as a change moves it: what the running server still reads comes along."""

import os
from pathlib import Path

from mcpkeep.supervisor.durable import OS_CALLS, FileCalls
from mcpkeep.supervisor.upgrade.live_files import make_missing

__all__ = ["carry_old_files", "sync_tree"]

# LanceDB's: what a reader of an older version of the table opens. Its manifests must stay the new one's.
_READ = ("data", "_deletions")


def carry_old_files(old: Path, new: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Hard-link the files that the new index lacks: of its own tables what readers open, others whole.

    Not where there are no links.
    """
    try:
        tables = sorted(name for name in os.listdir(old) if (old / name).is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for table in tables:
        parts = [old / table / part for part in _READ] if (new / table).is_dir() else [old / table]
        for part in parts:
            for at, folders, files in os.walk(part):
                folders.sort()
                folder = new / Path(at).relative_to(old)
                for name in sorted(files):
                    if not os.path.lexists(folder / name) and not (Path(at) / name).is_symlink():
                        make_missing(folder, calls=calls)
                        calls.link(Path(at) / name, folder / name)


def sync_tree(folder: Path, *, calls: FileCalls = OS_CALLS) -> None:
    """Bring all files and folders below to the disk. Raises OSError."""
    for at, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if not (Path(at) / name).is_symlink():
                calls.fsync_file(Path(at) / name)
        calls.fsync_folder(Path(at))
