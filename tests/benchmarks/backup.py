"""A backup in one pass, on the disk when it returns, beside copytree-then-hash, which is not."""

import gc
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from mcpkeep.supervisor.durable import FileCalls, OsCalls
from mcpkeep.supervisor.upgrade.backup_store import BackupFiles
from mcpkeep.supervisor.upgrade.layout import Layout
from tests.benchmarks.figures import Table, percentile

__all__ = ["backup_table"]

# Folders and files of a real installation, about as they are spread: 2.5 MB in 348 files.
REAL = (348, 2_500_000)
LARGE = (20_000, 500_000_000)
SLOW = 60e-6
"""Seconds; a file is created in 20 to 30 us by ext4 when nothing was deleted lately."""


def make_installation(workspace: Path, files: int, size: int) -> Path:
    """An installation of so many files and bytes, five files to a folder, sizes as uneven as real ones."""
    chance = random.Random(1)
    weights = [chance.lognormvariate(0, 1) for _ in range(files)]
    share = size / sum(weights)
    base = workspace / ".praxis-os"
    for n, weight in enumerate(weights):
        folder = base / ("mcp_server", "scripts", "standards", "workflows")[n // 5 % 4] / f"part-{n // 5}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.md").write_bytes(chance.randbytes(max(1, int(weight * share))))
    return base


def copy_then_hash(source: Path, target: Path) -> dict[str, str]:
    """The plain way: copy all, then read all again. Nothing is synced."""
    shutil.copytree(source, target)
    return {
        str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in target.rglob("*")
        if path.is_file()
    }


def backup_table(*, rounds: int, large: bool) -> Table:
    """The real size; with `large` also 20,000 files of 500 MB."""
    rows: list[tuple[str, ...]] = []
    for files, size in (REAL, LARGE) if large else (REAL,):
        with TemporaryDirectory(prefix="mcpkeep-benchmark-") as folder:
            calls = _Timed()
            times = _measure(Path(folder), files, size, rounds if (files, size) == REAL else 3, calls)
        creating = percentile(calls.creating, 0.5)
        medians = {name: percentile(seconds, 0.5) for name, seconds in times.items()}
        plain, synced, ours = (medians[name] for name in ("plain", "synced", "ours"))
        reach = "met" if plain / ours >= 2 else "skipped" if creating > SLOW else "MISSED"
        rows.append(
            (
                f"{files:,} files, {size / 1e6:g} MB",
                *(f"{seconds * 1e3:,.0f}" for seconds in medians.values()),
                f"{plain / ours:.1f}",
                f"{synced / ours:.1f}",
                f"{creating * 1e6:.0f}",
                reach if (files, size) == REAL else "",
            )
        )
    return Table(
        "Backup (ms, medians)",
        (
            "",
            "copytree, then hash",
            "the same, synced",
            "mcpkeep, synced",
            "verified",
            "times faster",
            "than synced",
            "a create, us",
            "reach",
        ),
        tuple(rows),
        (
            "to reach: at least twice as fast as copytree-then-hash, which leaves all in memory",
            "for minutes after many files were deleted ext4 takes long to create one; above "
            f"{SLOW * 1e6:.0f} us that is most of what both ways take, and a miss is no verdict",
        ),
    )


def _measure(workspace: Path, files: int, size: int, rounds: int, calls: FileCalls) -> dict[str, list[float]]:
    base = make_installation(workspace, files, size)
    store = BackupFiles(Layout(workspace, base), calls=calls)
    aside = workspace / "copies"
    aside.mkdir()
    made: list[str] = []

    def ours() -> None:
        now = datetime.now(UTC)
        made.append(
            store.create("benchmark", release=None, requirements="", now=now, check=_unchecked).backup_id
        )

    def synced(target: Path) -> None:
        copy_then_hash(source, target)
        os.sync()

    # What is copied is the same each time: without the backups that are made meanwhile.
    source = workspace / "source"
    shutil.copytree(base, source)
    times: dict[str, list[float]] = {"plain": [], "synced": [], "ours": [], "verified": []}
    for n in range(rounds):
        for name, once in (
            ("plain", partial(copy_then_hash, source, aside / f"plain-{n}")),
            ("synced", partial(synced, aside / f"synced-{n}")),
            ("ours", ours),
            ("verified", lambda: store.verify(made[-1], check=_unchecked)),
        ):
            times[name].append(_timed(once))
    return times


class _Timed(OsCalls):
    """Notes how long each file takes to be created."""

    def __init__(self) -> None:
        self.creating: list[float] = []

    def create(self, path: Path) -> int:
        begun = perf_counter()
        fd = super().create(path)
        self.creating.append(perf_counter() - begun)
        return fd


def _timed(once: Callable[[], object]) -> float:
    os.sync()
    gc.collect()
    begun = perf_counter()
    once()
    return perf_counter() - begun


def _unchecked() -> None:
    """Work that is wanted to its end."""
