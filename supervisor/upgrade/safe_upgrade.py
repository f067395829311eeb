"""Runs the dry run of a source's safe-upgrade script, which nobody vouches for, on copies of everything."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.manifest import MANIFEST
from mcpkeep.protocol.upgrade.names import source_path
from mcpkeep.protocol.upgrade.plan import Plan, Version
from mcpkeep.protocol.upgrade.safe_upgrade import SCRIPT, differences, read_summary
from mcpkeep.protocol.upgrade.source_tree import MANIFEST_PATH
from mcpkeep.supervisor.upgrade.cache import Cache
from mcpkeep.supervisor.upgrade.git import Blobs
from mcpkeep.supervisor.upgrade.live_tree import Special, read_bytes
from mcpkeep.supervisor.upgrade.repository import read_tree

__all__ = ["SAFE_UPGRADE_LIMIT", "compare_with_safe_upgrade"]

SAFE_UPGRADE_LIMIT = 30.0
"""Seconds; it reads a few hundred files."""

_MOST_OUTPUT = 1 << 20


def compare_with_safe_upgrade(
    plan: Plan, base: Path, *, python: str, cache: Cache, limit: float = SAFE_UPGRADE_LIMIT
) -> tuple[str, ...]:
    """What the source's script says otherwise than the plan, a line for each; a failure is a line, too.

    Empty where the source has no such script. It gets a copy of the commit and one of the planned files of
    the installation `base`, and an environment without the user's; blocks for `limit` seconds at most.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mcpkeep-safe-upgrade-") as name:
            folder = Path(name)
            tree = read_tree(Path(plan.source_path), plan.source_commit, cache=cache)
            if SCRIPT not in tree.files or tree.problems:
                return ()
            _copy_source(plan, tree.files, folder / "source")
            _copy_target(plan, base, folder / "target")
            said = _run(python, folder, limit)
    except UpgradeFailed as error:
        return (f"safe-upgrade.py could not be tried: {error}",)
    except OSError as error:
        return (f"safe-upgrade.py could not be tried: {(error.strerror or str(error)).lower()}",)
    summary = read_summary(said)
    if not summary:
        last = said.strip().splitlines()[-1:] or ["nothing"]
        return (f"safe-upgrade.py gave no summary of its dry run; it said last: {last[0][:200]!r}",)
    return differences(summary, plan.counts())


def _copy_source(plan: Plan, files: Mapping[str, Version], folder: Path) -> None:
    with Blobs(Path(plan.source_path)) as blobs:
        for path, version in files.items():
            place = source_path(path)
            if place is not None and version.mode != "120000":
                _write(folder / place, blobs.read(version.oid))
        try:
            _write(folder / MANIFEST_PATH, blobs.read(f"{plan.source_commit}:{MANIFEST_PATH}"))
        except UpgradeFailed:
            raise UpgradeFailed(f"the source has no {MANIFEST}", remediation="none is needed") from None


def _copy_target(plan: Plan, base: Path, folder: Path) -> None:
    folder.mkdir()
    for file in plan.files:
        if file.local is not None and file.local.mode != "120000":
            path = file.renamed_from or file.path
            try:
                _write(folder / path, read_bytes(base, path))
            except Special as error:
                raise UpgradeFailed(str(error), remediation="make it readable") from error


def _write(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _run(python: str, folder: Path, limit: float) -> str:
    with subprocess.Popen(
        (
            python,
            "-B",
            SCRIPT,
            *("--source", str(folder / "source"), "--target", str(folder / "target")),
            "--dry-run",
        ),
        cwd=folder / "source",
        env={"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        late = threading.Event()
        killer = threading.Timer(limit, _end, (process.pid, late))
        killer.daemon = True
        killer.start()
        try:
            assert process.stdout is not None
            said = process.stdout.read(_MOST_OUTPUT)
        finally:
            # Its children go with it, and it itself where it has more to say.
            killer.cancel()
            _kill(process.pid)
    if late.is_set():
        raise UpgradeFailed(f"it took longer than {limit:g} s", remediation="none is needed")
    return said.decode(errors="replace")


def _end(group: int, late: threading.Event) -> None:
    late.set()
    _kill(group)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # It has ended, and so have its children.
        return
