"""What upstream's safe-upgrade script says in its dry run, and how that differs from the plan."""

import re
from collections.abc import Mapping

from mcpkeep.protocol.upgrade.plan import Counts

__all__ = ["SCRIPT", "differences", "read_summary"]

SCRIPT = "scripts/safe-upgrade.py"

_LINE = re.compile(
    r"^\W*(new files|auto[- ]update|unchanged|local[- ]only|conflicts|errors)[^:\d]*:\W*(\d{1,9})\b",
    re.IGNORECASE | re.MULTILINE,
)
_NAMES = {
    "n": "new files",
    "a": "updates",
    "u": "unchanged",
    "l": "local-only",
    "c": "conflicts",
    "e": "errors",
}


def read_summary(said: str) -> Mapping[str, int]:
    """The counts under its `Analysis Summary`, by our words for them; empty where there is none."""
    _, found, summary = said.partition("Analysis Summary")
    counts: dict[str, int] = {}
    for match in _LINE.finditer(summary if found else ""):
        counts.setdefault(_NAMES[match[1][0].lower()], int(match[2]))
    return counts


def differences(summary: Mapping[str, int], counts: Counts) -> tuple[str, ...]:
    """A line for each number that is not the plan's."""
    planned = {
        "new files": counts.new_files,
        "updates": counts.updated_files,
        "unchanged": counts.unchanged_files,
        "local-only": counts.local_only,
        "conflicts": counts.conflicts,
        "errors": 0,
    }
    return tuple(
        f"safe-upgrade.py counts {said} {name}, the plan {planned[name]}"
        for name, said in summary.items()
        if said != planned[name]
    )
