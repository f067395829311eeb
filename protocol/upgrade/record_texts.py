"""VERSION.txt, UPDATE_LOG.txt and INSTALLATION_SUMMARY.md: brought up to date, with all of the user's kept.

Texts are str with whatever line endings they had; decode and encode with `surrogateescape`, so that no byte
of the user's is lost.
"""

import re
from datetime import UTC, datetime

from mcpkeep.protocol.upgrade.markdown import code, plain, time
from mcpkeep.protocol.upgrade.report import UpgradeReport
from mcpkeep.protocol.upgrade.rollback_report import RollbackReport

__all__ = [
    "append_entry",
    "log_entry",
    "put_section",
    "rollback_entry",
    "rollback_section",
    "summary_section",
    "tells_rollback",
    "version_text",
]

_BEGIN = "<!-- mcpkeep: the text from here is replaced by each upgrade -->"
_END = "<!-- mcpkeep: to here -->"
_ROLLBACK = re.compile(r"^=== Rollback to .* - (\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}) ===\r?$", re.MULTILINE)


def version_text(old: str, *, version: str, commit: str, source: str, at: datetime) -> str:
    """VERSION.txt: its `key=value` lines up to date in their places, missing ones added, other lines kept.

    `version_installed` is written as a version; a date there, of the first installation, stays.
    """
    values = {
        "version_installed": version,
        "version_updated": time(at),
        "commit": commit[:7],
        "source": source,
    }
    ending = "\r\n" if "\r\n" in old else "\n"
    lines: list[str] = []
    for line in old.splitlines():
        key, equals, value = line.partition("=")
        key = key.strip()
        if equals and key in values:
            new = values.pop(key)
            is_date = key == "version_installed" and re.match(r"\s*\d{4}-\d{2}-\d{2}", value)
            lines.append(line if is_date else f"{key}={_line(new)}")
        else:
            lines.append(line)
    lines += [f"{key}={_line(value)}" for key, value in values.items()]
    return "".join(line + ending for line in lines)


def log_entry(version: str, at: datetime, *, new: int, updated: int, resolved: int) -> str:
    """An entry of UPDATE_LOG.txt in upstream's form, with its counts."""
    return (
        f"=== Upgrade to {_line(version)} - {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} ===\n"
        f"New files: {new}\nUpdated files: {updated}\nConflicts resolved: {resolved}\n"
    )


def append_entry(old: str, entry: str) -> str:
    """UPDATE_LOG.txt with the entry at its end, after an empty line; as it is where it has that entry."""
    ending = "\r\n" if "\r\n" in old else "\n"
    entry = entry.replace("\n", ending)
    if entry in old:
        return old
    if old and not old.endswith(("\n", "\r\n")):
        old += ending
    return f"{old}{ending if old else ''}{entry}"


def summary_section(report: UpgradeReport) -> str:
    """What INSTALLATION_SUMMARY.md says of the newest upgrade."""
    new, counts = report.new, report.counts
    rows = [
        f"- version: {code(new.version)}, commit {code((new.commit or 'unknown')[:10])}",
        f"- release: {code(new.release or 'unknown')}",
        f"- installed: {time(report.ended_at)}, by {plain(report.by)}",
        f"- before: {code(report.former.version)}, release {code(report.former.release or 'unknown')}",
        f"- files: {counts.new_files} new, {counts.updated_files} updated, {counts.removed_files} removed, "
        f"{counts.local_only} of your own kept, {counts.conflicts} conflicts decided",
        f"- backup: {code(report.backup_path or report.backup_id or 'none')}",
        f"- how to go back: {code('mcpkeep rollback')}",
    ]
    return "## Installed by mcpkeep\n\n" + "\n".join(rows) + "\n"


def rollback_entry(report: RollbackReport) -> str:
    """An entry of UPDATE_LOG.txt in the same form."""
    to = report.to_version or report.to_release
    return (
        f"=== Rollback to {_line(to)} - {report.ended_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} ===\n"
        f"Restored files: {len(report.restored)}\nMerged files: {len(report.merged)}\n"
        f"Kept files: {len(report.kept)}\n"
    )


def tells_rollback(log: str, *, since: datetime) -> bool:
    """Whether UPDATE_LOG.txt has an entry of a rollback that ended at `since` or later, to the second."""
    second = f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return any(at >= second for at in _ROLLBACK.findall(log))


def rollback_section(report: RollbackReport) -> str:
    """What INSTALLATION_SUMMARY.md says after a rollback."""
    rows = [
        f"- version: {code(report.to_version or 'unknown')}",
        f"- release: {code(report.to_release)}",
        f"- rolled back: {time(report.ended_at)}, by {plain(report.by)}",
        f"- before: release {code(report.from_release or 'unknown')}",
        f"- files: {len(report.restored)} restored, {len(report.merged)} merged, {len(report.kept)} kept",
        f"- how to go forward again: {code('mcpkeep rollback')}, or {code('mcpkeep upgrade')}",
    ]
    return "## Installed by mcpkeep\n\n" + "\n".join(rows) + "\n"


def put_section(old: str, section: str) -> str:
    """INSTALLATION_SUMMARY.md with the section in its marked place, or at the end; the rest as it is."""
    ending = "\r\n" if "\r\n" in old else "\n"
    marked = f"{_BEGIN}\n{section.rstrip()}\n{_END}".replace("\n", ending)
    begin = old.find(_BEGIN)
    end = old.find(_END, begin)
    if begin >= 0 and end >= 0:
        return old[:begin] + marked + old[end + len(_END) :]
    if not old.strip():
        old = f"# Installation summary{ending}"
    return f"{old.rstrip()}{ending * 2}{marked}{ending}"


def _line(text: str) -> str:
    return " ".join(text.split())
