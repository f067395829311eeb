"""Where config.json has the server keep its search index, and read its standards and workflows."""

import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from mcpkeep.protocol.bases import BASES
from mcpkeep.protocol.upgrade.places import INDEX, SETTINGS

__all__ = ["ConfigRefused", "Place", "index_place", "not_of_an_index", "read_elsewhere", "read_rag"]

_CACHE = ".cache"
_TAKEN = {
    *("", ".mcpkeep", ".backups", "venv", "state", ".cache", ".cache/state"),
    *("mcp_server", "scripts", "standards", "usage", "workflows", "specs", "workspace"),
}
"""In an installation: what is no place for an index, since it is content, or mcpkeep's, or the sessions'."""


class ConfigRefused(ValueError):
    """What config.json says cannot be followed; `remedy` is what its user can do."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


class Place(NamedTuple):
    """A path, relative to the installation's folder if it is `installed` there, else to the project."""

    path: str
    installed: bool

    def __str__(self) -> str:
        """As config.json says it."""
        return f"{BASES[0]}/{self.path}" if self.installed else self.path


def read_rag(config: bytes) -> Mapping[str, object]:
    """The section `rag`; empty where there is none. Raises ConfigRefused where the file is damaged."""
    try:
        settings = cast("dict[str, object]", json.loads(config))
        rag = cast("dict[str, object]", settings.get("rag") or {})
        rag.keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigRefused(
            f"{SETTINGS} is damaged, so it is not known where the server keeps its index: {error}",
            f"mend {SETTINGS}, or take it away; the server does without one",
        ) from error
    return rag


def index_place(config: bytes) -> Place:
    """Where `rag.index_path` has the index; the usual place where it says nothing.

    Raises ConfigRefused: it leads out of the project, or to where other things are kept.
    """
    value = read_rag(config).get("index_path")
    if not value:
        return Place(INDEX, True)
    place = _locate(value) if isinstance(value, str) else None
    if place is None:
        raise refused_index(value, "is no path inside the project, relative to its root")
    top, _, below = place.path.partition("/")
    # Elsewhere in the installation it would be in folders that are backed up and restored as a whole.
    own = not below or top == _CACHE
    if place.installed and (place.path in _TAKEN or f"{top}/{below.partition('/')[0]}" in _TAKEN or not own):
        raise refused_index(value, "is where other things of the installation are kept")
    if not place.installed and place.path == ".":
        raise refused_index(value, "is the project itself")
    return place


def refused_index(value: object, why: str) -> ConfigRefused:
    """The refusal of an index that an upgrade could neither copy nor exchange."""
    return ConfigRefused(
        f"`rag.index_path` in {SETTINGS} is {value!r}, which {why}: the index there cannot be exchanged",
        f"name a folder of its own inside the project, such as {BASES[0] + '/' + INDEX!r}",
    )


def not_of_an_index(names: Iterable[str]) -> list[str]:
    """Of what lies in a folder: what no server puts into its index, nor mcpkeep in passing."""
    ours = (".mcpkeep-", ".metadata.json.")
    return sorted(
        n for n in names if not (n == "metadata.json" or n.endswith(".lance") or n.startswith(ours))
    )


def read_elsewhere(config: bytes) -> list[str]:
    """What people should know of content that the server does not read where an upgrade puts it."""
    rag = read_rag(config)
    warnings: list[str] = []
    for key, name in (("standards_path", "standards"), ("workflows_path", "workflows")):
        value = rag.get(key)
        place = _locate(value) if isinstance(value, str) else None
        inside = place is not None and place.installed and f"{place.path}/".startswith(f"{name}/")
        if value and not inside:
            warnings.append(
                f"`rag.{key}` in {SETTINGS} is {value!r}: the server reads its {name} there, and an upgrade "
                f"changes those in {BASES[0]}/{name}, and tries the new version without yours; set it to "
                f"{BASES[0] + '/' + name!r}, or bring over by hand what is new"
            )
    return warnings


def _locate(path: str) -> Place | None:
    """None where it is absolute, climbs, or is no path."""
    if "\0" in path or path.startswith("/") or ".." in path.split("/"):
        return None
    top, _, below = posixpath.normpath(path).partition("/")
    return Place(below, True) if top in BASES else Place(posixpath.normpath(path), False)
