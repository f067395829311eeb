"""The way back to a backup that no change leads to: from what is installed, as if one change had led here."""

import os
from pathlib import Path

from mcpkeep.protocol.upgrade.change import ChangedFile, ChangeRecord
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import CODE_PARTS, PARTS, RECORDS
from mcpkeep.protocol.upgrade.rollback import WayBack
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.copying import walk
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.live_files import digest

__all__ = ["installed_file", "way_to_backup"]

_VERSION = RECORDS[0]


def way_to_backup(layout: Layout, backup_id: str) -> WayBack:
    """Of all that is installed, and of what the backup has in the same folders; no file of the user's own.

    What was installed is the baseline, so that edits are told from it. Raises UpgradeFailed, OSError.
    """
    manifest, current = BackupFiles(layout).manifest(backup_id), layout.current_release()
    if current is None:
        raise UpgradeFailed(
            f"it is not known what is installed here, so backup {backup_id!r} cannot be merged with it",
            remediation="start mcpkeep, which makes a release of what is there, and try again",
        )
    installed = {path: digest(installed_file(layout, path)) for path in _installed(layout)}
    # A record of mcpkeep's, which nobody edits.
    installed[_VERSION] = digest(layout.base / _VERSION)
    folders = tuple(f"{part.installed}/" for part in PARTS)
    paths = installed.keys() | {path for path in manifest.files if path.startswith(folders)}
    old = {path: file.sha256 for path, file in manifest.files.items()}
    record = ChangeRecord(
        schema=1,
        session_id=backup_id,
        kind="upgrade",
        at=manifest.timestamp,
        from_release=manifest.release,
        to_release=current,
        backup_id=backup_id,
        swapped_index=manifest.release != current,
        files={path: ChangedFile(old.get(path), installed.get(path)) for path in sorted(paths)},
    )
    return WayBack((record,), to_backup=True)


def installed_file(layout: Layout, path: str) -> Path:
    """The file as it was installed; of a part that has no baseline, as the current release has it."""
    if (layout.baseline / path.partition("/")[0]).is_dir():
        return layout.baseline / path
    return layout.current / path


def _installed(layout: Layout) -> list[str]:
    paths: list[str] = []
    if layout.baseline.is_dir():
        tree = walk(layout.baseline)
        paths += [*tree.files, *tree.links]
    for part in CODE_PARTS:
        folder = Path(os.path.realpath(layout.current)) / part.installed
        if not (layout.baseline / part.installed).is_dir() and folder.is_dir():
            tree = walk(folder, content=True)
            paths += [f"{part.installed}/{path}" for path in (*tree.files, *tree.links)]
    return paths
