"""Why an installation failed, read from the output of uv or pip."""

import re
from collections.abc import Sequence
from enum import StrEnum

import msgspec

__all__ = ["Cause", "Diagnosis", "diagnose"]


class Cause(StrEnum):
    """What stood in the way."""

    DISK_FULL = "disk_full"
    NOT_PERMITTED = "not_permitted"
    NO_NETWORK = "no_network"
    HASH_MISMATCH = "hash_mismatch"
    HASH_MISSING = "hash_missing"
    WRONG_PYTHON = "wrong_python"
    NO_WHEEL = "no_wheel"
    CONFLICT = "conflict"
    NO_SUCH_VERSION = "no_such_version"
    NO_SUCH_PACKAGE = "no_such_package"
    TOOK_TOO_LONG = "took_too_long"
    UNKNOWN = "unknown"


class Diagnosis(msgspec.Struct, frozen=True):
    """A cause in words."""

    cause: Cause
    text: str
    remedy: str

    @property
    def unresolvable(self) -> bool:
        """Whether other versions than those it was held to might do."""
        return self.cause in _UNRESOLVABLE


_UNRESOLVABLE = {Cause.NO_SUCH_VERSION, Cause.CONFLICT, Cause.NO_WHEEL, Cause.WRONG_PYTHON}

_INDEX_REMEDY = "check the requirements, and the package index configuration and proxy"
_CONFLICT_REMEDY = "take a source whose requirements can be resolved, or pin the packages that they name"
_PYTHON_REMEDY = "rebuild the venv with a Python that the new version supports, then retry"

# In this order: what comes first is what the later ones follow from. pip reports an index that it cannot
# reach, and a package without a suitable wheel, as one that does not exist; the line before tells them apart.
_TABLE: tuple[tuple[Cause, str, str, str], ...] = (
    (
        Cause.DISK_FULL,
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free space for the venv and the package cache, then retry",
    ),
    (
        Cause.NOT_PERMITTED,
        r"(?P<what>[^\n]*)(?:Permission denied|Read-only file system|Operation not permitted)",
        "a file or folder may not be written: {what}",
        "make it writable for the user who runs mcpkeep",
    ),
    (
        Cause.NO_NETWORK,
        r"client error \(Connect\)|error sending request|dns error|connection broken by|network was disabled"
        r"|Network connectivity is disabled|certificate verify failed|Connection refused|timed out"
        r"|Proxy(?:Error| Authentication)|operation timed out|[Tt]emporary failure in name resolution",
        "no network: packages are neither cached nor reachable",
        "connect, or fill the cache; unchanged requirements need no network",
    ),
    (
        Cause.HASH_MISMATCH,
        r"Hash mismatch for `(?P<what>[^`]+)`|DO NOT MATCH THE HASHES[^\n]*\n\s*(?P<also>\S+)",
        "{what} is not what the requirements carry the hash of",
        "do not install it: find out whether the index or the requirements are wrong",
    ),
    (
        Cause.HASH_MISSING,
        r"no trusted hash was provided for: `(?P<what>[^`]+)`"
        r"|have their versions pinned with ==\. These do not:\n\s*(?P<also>\S+)"
        r"|Hashes are required in --require-hashes mode[^\n]*\n\s*(?P<more>\S+)",
        "the requirements carry hashes, but none for {what}",
        "add it with its hash to the requirements, or take a source that has it",
    ),
    (
        Cause.WRONG_PYTHON,
        r"(?P<what>[\w.-]+)(?:==\S+)? requires Python\s?\S+"
        r"|does not satisfy Python\S+ and (?P<also>[\w.-]+)(?:==\S+)? depends on Python"
        r"|Package '(?P<more>[^']+)' requires a different Python"
        r"|require a different python version: [^\n]*\n[^\n]*the requirement (?P<last>[\w.-]+)",
        "{what} needs another Python than the venv's",
        _PYTHON_REMEDY,
    ),
    (
        Cause.NO_WHEEL,
        r"(?P<what>[\w.-]+)(?:==\S+)? has no (?:wheels with a matching|usable wheels)"
        r"|Failed to build `(?P<also>[^`]+)`|Failed building wheel for (?P<more>\S+)"
        r"|(?P<last>[\w.-]+\.whl) is not a supported wheel on this platform"
        r"|error: metadata-generation-failed|error: subprocess-exited-with-error",
        "no wheel of {what} for this Python and platform, and it cannot be built here",
        _PYTHON_REMEDY,
    ),
    (
        Cause.CONFLICT,
        r"we can conclude that (?P<what>[^\n]*) are incompatible"
        r"|Cannot install (?P<also>[^\n]*) because these package versions have conflicting",
        "the requirements contradict each other: {what}",
        _CONFLICT_REMEDY,
    ),
    (
        Cause.NO_SUCH_VERSION,
        r"there (?:is|are) no versions? of (?P<what>\S+)|is available and you require (?P<more>\S+),"
        r"|satisfies the requirement (?P<also>[^\n]+?)(?: \(from [^()\n]*\))? \(from versions: (?!none)",
        "no matching version of {what}",
        _INDEX_REMEDY,
    ),
    (
        Cause.NO_SUCH_PACKAGE,
        r"(?P<what>[\w.-]+) was not found in (?!the cache)"
        r"|satisfies the requirement (?P<also>[^\n]+?)(?: \(from [^()\n]*\))? \(from versions: none\)",
        "no such package, or none for this Python and platform: {what}",
        _INDEX_REMEDY,
    ),
    (
        # uv's end of every such story; whatever the rows above know of it is more exact.
        Cause.CONFLICT,
        r"(?:Because (?P<what>[^\n]*?), we can conclude[\s\S]*?)?your requirements\s+are unsatisfiable",
        "the requirements contradict each other: {what}",
        _CONFLICT_REMEDY,
    ),
)


def diagnose(output: Sequence[str]) -> Diagnosis:
    """What the lines of a failed uv or pip say; the last of them, where nothing is recognised."""
    said = "\n".join(output)
    for cause, pattern, text, remedy in _TABLE:
        if found := re.search(pattern, said):
            named = next((group for group in found.groups() if group), "a package").strip(" :`'")
            return Diagnosis(cause, text.format(what=named), remedy)
    last = next((line.strip() for line in reversed(output) if line.strip()), "it said nothing")
    return Diagnosis(Cause.UNKNOWN, f"the installation failed: {last}", "read its output; mend, and retry")
