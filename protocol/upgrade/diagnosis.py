"""Why a server did not come up or went down, out of its exit and the last lines of its stderr."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from mcpkeep.protocol.switch import Exit, describe_exit

__all__ = ["CHOOSE_ANOTHER", "Diagnosis", "explain_end", "shown_tail"]

CHOOSE_ANOTHER = "the old version stays; report it upstream, or choose another commit"

_OWN_PARTS = ("mcp_server", "scripts")
_MISSING = re.compile(r"No module named '?([\w.]+)'?")
_FILE = re.compile(r'^\s*File "([^"]+)", line (\d+)')
_ERROR = re.compile(r"^(?:[\w.]*\b(?:Error|Exception|Interrupt|Exit)\b|[\w.]*error):? ?", re.IGNORECASE)
_ARGUMENTS = re.compile(r"error: (unrecognized arguments|the following arguments|argument )|--transport")
"""As argparse says it."""
_SHOWN = 20


class Diagnosis(NamedTuple):
    """The cause in a few words for people, and what to do."""

    cause: str
    remedy: str


def explain_end(end: Exit) -> Diagnosis:
    """Say how the server ended and name the cause, where its last words tell."""
    how = describe_exit(end)
    word = _last_word(end.stderr_tail)
    if end.spawn_error is not None:
        return Diagnosis(how, "the release's venv is damaged; upgrade again, so that it is rebuilt")
    if word is None:
        if end.signal == "SIGKILL":
            return Diagnosis(how, "it may have been out of memory; free some, and try again")
        return Diagnosis(f"{how} and said nothing on stderr", CHOOSE_ANOTHER)
    cause = f"{how}: {word}"
    missing = _MISSING.search(word)
    if missing is not None:
        top = missing[1].partition(".")[0]
        if top in _OWN_PARTS:
            return Diagnosis(f"{cause} (a part of the new version itself is missing)", CHOOSE_ANOTHER)
        return Diagnosis(
            f"{cause} (a package that its requirements do not bring)",
            f"the old version stays; report upstream that its requirements lack {top!r}, or choose another "
            "commit",
        )
    if word.startswith(("SyntaxError", "IndentationError", "TabError")):
        place = _last_place(end.stderr_tail)
        return Diagnosis(f"{cause}{f' ({place})' if place else ''}", CHOOSE_ANOTHER)
    if end.code == 2 and _ARGUMENTS.search(word):
        return Diagnosis(
            f"{cause} (this version takes other arguments)",
            "the old version stays; change what stands after `-m mcp_server` in the command that mcpkeep is "
            "given to what the new version takes, or choose another commit",
        )
    return Diagnosis(cause, CHOOSE_ANOTHER)


def shown_tail(lines: Sequence[str]) -> tuple[str, ...]:
    """The last lines of stderr that go into a report."""
    return tuple(lines[-_SHOWN:])


def _last_word(lines: Sequence[str]) -> str | None:
    """The last line that names an error, or else the last one that says anything."""
    said = [line.strip() for line in lines if line.strip()]
    named = next((line for line in reversed(said[-_SHOWN:]) if _ERROR.match(line)), None)
    return named or (said[-1] if said else None)


def _last_place(lines: Sequence[str]) -> str | None:
    places = [match for line in lines if (match := _FILE.match(line))]
    return f"{places[-1][1]}, line {places[-1][2]}" if places else None
