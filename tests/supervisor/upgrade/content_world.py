"""A small installation, a source with the objects of two versions, and a plan between them made by hand."""

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mcpkeep.protocol.upgrade.blob import blob_id
from mcpkeep.protocol.upgrade.file_mode import EXECUTABLE, LINK, PLAIN
from mcpkeep.protocol.upgrade.plan import Case, Mode, Plan, PlannedFile, Version
from mcpkeep.supervisor.upgrade.git import run_git
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["SESSION", "ContentWorld", "File", "Spec", "executable", "link", "plain", "tree_of"]

SESSION = "0123abcd-session"
_SHA1 = "0" * 40


class File(NamedTuple):
    """One version of a file."""

    data: bytes
    mode: Mode


def plain(text: str | bytes) -> File:
    return File(text.encode() if isinstance(text, str) else text, PLAIN)


def executable(text: str) -> File:
    return File(text.encode(), EXECUTABLE)


def link(target: str) -> File:
    return File(target.encode(), LINK)


@dataclass(frozen=True)
class Spec:
    """One planned file, with what it is on all sides."""

    path: str
    case: Case
    base: File | None = None
    local: File | None = None
    upstream: File | None = None
    merged: File | None = None
    renamed_from: str | None = None
    bits: int | None = None
    """Permissions of the live file, if not the usual."""


def tree_of(root: Path) -> dict[str, tuple[object, ...]]:
    """All below `root`: kind, permissions, bytes, and time of files."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder, name)
            at = os.lstat(path)
            key = path.relative_to(root).as_posix()
            if stat.S_ISLNK(at.st_mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISDIR(at.st_mode):
                found[key] = ("folder", stat.S_IMODE(at.st_mode))
            elif stat.S_ISREG(at.st_mode):
                found[key] = ("file", stat.S_IMODE(at.st_mode), path.read_bytes(), at.st_mtime_ns)
    return found


class ContentWorld:
    """The source repository has every version's object; the live tree has the user's files."""

    def __init__(self, root: Path, specs: Sequence[Spec], *, base: str = ".praxis-os") -> None:
        self.specs = specs
        self.source = root / "source"
        self.source.mkdir(parents=True)
        run_git(self.source, "init", "--quiet")
        self.layout = Layout(root / "workspace", root / "workspace" / base)
        self.layout.base.mkdir(parents=True)
        self.store(*(version for spec in specs for version in (spec.base, spec.upstream)))
        for spec in specs:
            if spec.local is not None:
                self.put(spec.renamed_from or spec.path, spec.local, bits=spec.bits)

    def store(self, *versions: File | None) -> None:
        """Make objects of these in the source."""
        for data in {version.data for version in versions if version is not None}:
            run_git(self.source, "hash-object", "-w", "--no-filters", "--stdin", feed=data)

    def put(self, path: str, file: File, *, bits: int | None = None) -> Path:
        """Make a live file."""
        place = self.layout.base / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            place.unlink()
        if file.mode == LINK:
            place.symlink_to(os.fsdecode(file.data))
            return place
        place.write_bytes(file.data)
        place.chmod(bits if bits is not None else 0o755 if file.mode == EXECUTABLE else 0o644)
        os.utime(place, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789 + len(path)))
        return place

    def plan(self, *paths: str) -> Plan:
        """The plan of all specs, or of these."""
        specs = [spec for spec in self.specs if not paths or spec.path in paths]
        files = tuple(
            PlannedFile(
                path=spec.path,
                case=spec.case,
                local=_version(spec.local),
                base=_version(spec.base),
                upstream=_version(spec.upstream),
                merged=_version(spec.merged),
                renamed_from=spec.renamed_from,
            )
            for spec in sorted(specs, key=lambda spec: spec.path)
        )
        at = datetime(2026, 1, 31, tzinfo=UTC)
        return Plan("plan", "digest", str(self.source), "c" * 40, "2.0", None, at, files)

    def forget(self) -> None:
        """Remove all of mcpkeep's own."""
        shutil.rmtree(self.layout.own, ignore_errors=True)

    def live(self) -> dict[str, tuple[object, ...]]:
        """The live tree without mcpkeep's own folder."""
        tree = tree_of(self.layout.base)
        return {path: state for path, state in tree.items() if path.split("/")[0] != ".mcpkeep"}

    def staged(self) -> dict[str, tuple[object, ...]]:
        return tree_of(self.layout.staged(SESSION))


def _version(file: File | None) -> Version | None:
    return None if file is None else Version(blob_id(file.data, like=_SHA1), file.mode, len(file.data))
