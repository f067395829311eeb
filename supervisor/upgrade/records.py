"""An installation's records: reports, version, log, summary for people; history, decisions, probation.

All are written whole beside and renamed into place, the appended ones too: after a crash each is old or new.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from mcpkeep.protocol.upgrade.facts import SourceFacts
from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.places import RECORDS
from mcpkeep.protocol.upgrade.plan import Decision
from mcpkeep.protocol.upgrade.probation import Probation
from mcpkeep.protocol.upgrade.record_texts import (
    append_entry,
    log_entry,
    put_section,
    rollback_entry,
    rollback_section,
    tells_rollback,
    version_text,
)
from mcpkeep.protocol.upgrade.report import history_line
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport
from mcpkeep.supervisor.durable import OS_CALLS, FileCalls, make_folders, remove_file, write_durably
from mcpkeep.supervisor.upgrade.disk_failure import disk_failure
from mcpkeep.supervisor.upgrade.git_commit import commit_paths
from mcpkeep.supervisor.upgrade.layout import Layout

__all__ = ["RecordFiles", "ThreadedRecords"]

T = TypeVar("T")

VERSION, LOG, SUMMARY = RECORDS

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Plans that were decided and never carried out are not kept for ever.
_DECIDED_PLANS = 20


class RecordFiles:
    """The records of one installation, synchronous. Raises UpgradeFailed where a file cannot be written.

    Whoever calls what writes holds the upgrade lock; reading needs none and never raises.
    """

    def __init__(self, layout: Layout, *, now: Callable[[], datetime], calls: FileCalls = OS_CALLS) -> None:
        """`now` dates the version's record and answers aware times."""
        self._layout = layout
        self._now = now
        self._calls = calls

    # For people

    def stage(self, session_id: str, source: SourceFacts) -> tuple[str, ...]:
        """Write VERSION.txt and UPDATE_LOG.txt as they will be into the staged installation; which go live.

        The log's counts are known only at the end: what is staged of it shows that it can be written. A
        VERSION.txt that is a link is the user's own affair.
        """
        base, staged = self._layout.base, self._layout.staged(session_id)
        if (base / VERSION).is_symlink():
            return ()
        now = self._now()
        old = _read(base / VERSION)
        version = version_text(old, version=source.version, commit=source.commit, source=source.path, at=now)
        entry = log_entry(source.version, now, new=0, updated=0, resolved=0)
        self._write(staged / VERSION, version, like=base / VERSION)
        self._write(staged / LOG, append_entry(_read(base / LOG), entry), like=base / LOG)
        return (VERSION,)

    def write_validation(self, at: str, report: Mapping[str, object]) -> str:
        """Write the validation report; its path relative to the workspace."""
        content = {
            "generated_at": self._now().isoformat().replace("+00:00", "Z"),
            "validation_results": report,
        }
        return self._write_report(f"upgrade-validation-{_safe(at)}", ".json", _json(content))

    def write_summary(self, at: str, markdown: str) -> str:
        """Write the summary of an upgrade or a rollback; its path relative to the workspace."""
        return self._write_report(f"upgrade-summary-{_safe(at)}", ".md", _encode(markdown))

    def write_records(self, *, log_entry: str, summary: str) -> None:
        """Append to UPDATE_LOG.txt, and put the section into INSTALLATION_SUMMARY.md. May be repeated."""
        base = self._layout.base
        self._write(base / LOG, append_entry(_read(base / LOG), log_entry))
        self._write(base / SUMMARY, put_section(_read(base / SUMMARY), summary))

    def record_rollback(self, report: RollbackReport, *, reason: str | None = None) -> str:
        """Leave every record of a rollback that is not there yet, of one that failed its report alone; the
        report's path, relative to the workspace. May be repeated: one that was cut short leaves each once.

        With `reason`, for the history, a rollback is told that somebody else began, who may have left some.
        """
        if report.failure:
            return self._report_rollback(report)
        told = reason is not None and tells_rollback(_read(self._layout.base / LOG), since=report.started_at)
        self.write_records(log_entry="" if told else rollback_entry(report), summary=rollback_section(report))
        path = self._report_rollback(report)
        if not any(line.get("session_id") == report.session_id for line in self.history()):
            self.log_line({**history_line(report), **({"reason": reason} if reason else {})})
        return path

    def _report_rollback(self, report: RollbackReport) -> str:
        for path in self._layout.reports.glob("upgrade-summary-*-rollback*.md"):
            if report.identity in _decode(_bytes(path)):
                return self._in_workspace(path)
        return self.write_summary(f"{report.ended_at:%Y-%m-%d}-rollback", report.to_markdown())

    def latest(self) -> tuple[str, str] | None:
        """The newest summary: its path relative to the workspace, and its text."""
        newest: tuple[int, str] | None = None
        try:
            with os.scandir(self._layout.reports) as found:
                for entry in found:
                    if entry.name.startswith("upgrade-summary-") and entry.name.endswith(".md"):
                        newest = max(newest or (0, ""), (entry.stat().st_mtime_ns, entry.name))
            if newest is None:
                return None
            path = self._layout.reports / newest[1]
            return self._in_workspace(path), _decode(path.read_bytes())
        except OSError:
            return None

    # For mcpkeep

    def log_line(self, line: Mapping[str, object]) -> None:
        """Append to upgrades.jsonl."""
        path = self._layout.history
        old = _read(path)
        if old and not old.endswith("\n"):
            old += "\n"
        self._write_own(path, _encode(old) + msgspec.json.encode(line) + b"\n")

    def history(self) -> tuple[Mapping[str, object], ...]:
        """The lines of upgrades.jsonl, oldest first; torn ones are passed over."""
        lines: list[Mapping[str, object]] = []
        for line in _bytes(self._layout.history).splitlines():
            try:
                lines.append(msgspec.json.decode(line, type=dict[str, object]))
            except msgspec.MsgspecError:
                continue
        return tuple(lines)

    def save_decisions(self, plan_id: str, decisions: Mapping[str, Decision]) -> None:
        """Put a plan's decisions on record; those of the newest twenty plans stay."""
        folder = self._decisions
        self._write_own(folder / f"{_safe(plan_id)}.json", msgspec.json.encode(decisions))
        with disk_failure("forgetting old decisions"):
            older = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in older[_DECIDED_PLANS:]:
                remove_file(path, calls=self._calls)

    def decisions(self, plan_id: str) -> Mapping[str, Decision]:
        """Those on record; empty where there are none."""
        if not _SAFE.fullmatch(plan_id):
            return {}
        try:
            data = _bytes(self._decisions / f"{plan_id}.json")
            return msgspec.json.decode(data, type=dict[str, Decision])
        except msgspec.MsgspecError:
            return {}

    def save_probation(self, probation: Probation | None) -> None:
        """Remember the probation across restarts, or that there is none."""
        if probation is not None:
            self._write_own(self._probation, msgspec.json.encode(probation))
            return
        with disk_failure("ending the probation"):
            if remove_file(self._probation, calls=self._calls):
                self._calls.fsync_folder(self._probation.parent)

    def probation(self) -> Probation | None:
        """The one that was remembered, be it over or not."""
        try:
            return msgspec.json.decode(_bytes(self._probation), type=Probation)
        except msgspec.MsgspecError:
            return None

    def commit(self, paths: Sequence[str], message: str) -> bool:
        """See `git_commit.commit_paths`."""
        return commit_paths(self._layout.workspace, paths, message)

    @property
    def _decisions(self) -> Path:
        return self._layout.own / "decisions"

    @property
    def _probation(self) -> Path:
        return self._layout.own / "probation.json"

    def _in_workspace(self, path: Path) -> str:
        return f"{self._layout.name}/{path.relative_to(self._layout.base).as_posix()}"

    def _write_report(self, stem: str, suffix: str, data: bytes) -> str:
        """Never over another report: of two upgrades on one day, the second one's has a number."""
        folder = self._layout.reports
        path, number = folder / f"{stem}{suffix}", 1
        while os.path.lexists(path) and _bytes(path) != data:
            number += 1
            path = folder / f"{stem}-{number}{suffix}"
        with disk_failure("writing a report"):
            make_folders(folder, calls=self._calls)
            write_durably(path, data, calls=self._calls)
        return self._in_workspace(path)

    def _write_own(self, path: Path, data: bytes) -> None:
        with disk_failure("writing a record"):
            make_folders(path.parent, calls=self._calls)
            write_durably(path, data, calls=self._calls)

    def _write(self, path: Path, text: str, *, like: Path | None = None) -> None:
        """Write a record that lies among the user's files, with the mode that it has."""
        like = like or path
        if path.is_symlink():
            raise UpgradeFailed(
                f"{path.name} is a symbolic link, which is not written through",
                remediation="put a file in its place, and try again",
            )
        try:
            mode = like.stat().st_mode & 0o777
        except OSError:
            mode = 0o644
        with disk_failure(f"writing {path.name}"):
            write_durably(path, _encode(text), calls=self._calls, mode=mode)


class ThreadedRecords:
    """The Records of the upgrade actor: RecordFiles in a thread, one call at a time."""

    def __init__(self, files: RecordFiles) -> None:
        self._files = files
        self._limiter = anyio.CapacityLimiter(1)

    async def stage(self, session_id: str, source: SourceFacts) -> tuple[str, ...]:
        return await self._run(lambda: self._files.stage(session_id, source))

    async def write_validation(self, at: str, report: Mapping[str, object]) -> str:
        return await self._run(lambda: self._files.write_validation(at, report))

    async def write_summary(self, at: str, markdown: str) -> str:
        return await self._run(lambda: self._files.write_summary(at, markdown))

    async def write_records(self, *, log_entry: str, summary: str) -> None:
        await self._run(lambda: self._files.write_records(log_entry=log_entry, summary=summary))

    async def record_rollback(self, report: RollbackReport) -> str:
        return await self._run(lambda: self._files.record_rollback(report))

    async def save_decisions(self, plan_id: str, decisions: Mapping[str, Decision]) -> None:
        await self._run(lambda: self._files.save_decisions(plan_id, decisions))

    async def decisions(self, plan_id: str) -> Mapping[str, Decision]:
        return await self._run(lambda: self._files.decisions(plan_id))

    async def save_probation(self, probation: Probation | None) -> None:
        await self._run(lambda: self._files.save_probation(probation))

    async def latest(self) -> tuple[str, str] | None:
        return await self._run(self._files.latest)

    async def log_line(self, line: Mapping[str, object]) -> None:
        await self._run(lambda: self._files.log_line(line))

    async def history(self) -> tuple[Mapping[str, object], ...]:
        return await self._run(self._files.history)

    async def commit(self, paths: Sequence[str], message: str) -> bool:
        return await self._run(lambda: self._files.commit(paths, message))

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def _safe(name: str) -> str:
    if not _SAFE.fullmatch(name):
        raise UpgradeFailed(
            f"{name!r} cannot be part of a file's name", remediation="use letters, digits, dots and dashes"
        )
    return name


def _json(content: Mapping[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read(path: Path) -> str:
    """The text of a record; empty where there is none. Raises UpgradeFailed where it cannot be read."""
    with disk_failure(f"reading {path.name}"):
        try:
            return _decode(path.read_bytes())
        except FileNotFoundError:
            return ""


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
