"""Requirements files: what they ask for, whether an installed set is enough for it, and the key of a venv."""

import hashlib
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = [
    "Installed",
    "PythonFacts",
    "Requirements",
    "constraints",
    "freeze",
    "read_requirements",
    "unmet",
    "venv_key",
]

_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"(-r|-c|--requirement|--constraint)[\s=]*(?P<file>\S.*)")
_EDITABLE = re.compile(r"(-e|--editable)[\s=]*(?P<what>.*)")
_PER_REQUIREMENT = re.compile(r"\s+--(hash|config-settings|global-option)\b.*")
_FROM_FILE = re.compile(r"[\w.]+-[\w.!+]+(-[\w.]+)*\.(whl|tar\.gz|zip)")
_URL = re.compile(r"([a-z0-9.]+\+)?[a-z]+:", re.IGNORECASE)

_PIN = "constraint: "
"""Marks, among the lines, what a `-c` file says: it limits versions and asks for nothing."""

_MAX_FILES = 20
"""Included files; more is a circle."""


class Requirements(msgspec.Struct, frozen=True):
    """A requirements file with all that it includes."""

    lines: tuple[str, ...]
    """Normalised: continued lines joined, no comments, single blanks, includes in their place."""
    wanted: tuple[str, ...]
    """What is to be installed, without hashes, each as PEP 508 has it."""
    hashed: bool
    """Whether any carries a hash, so that all must."""

    @property
    def sha256(self) -> str:
        """Of the lines: comments and layout do not count."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    @property
    def names(self) -> frozenset[str]:
        """The packages that are asked for by name, normalised."""
        return frozenset(canonicalize_name(Requirement(text).name) for text in self.wanted)


class Installed(msgspec.Struct, frozen=True):
    """One installed distribution."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    url: str | None = None
    """Where it came from, if not from an index by name and version."""


class PythonFacts(msgspec.Struct, frozen=True):
    """What an interpreter said of itself and what is installed for it."""

    abi: str
    """Such as `cpython-311-x86_64-linux-gnu`."""
    platform: str
    """Such as `linux-x86_64`."""
    base: str
    """The interpreter that a venv is made with, absolute."""
    markers: Mapping[str, str]
    """The environment that markers are evaluated in."""
    installed: tuple[Installed, ...] = ()


def read_requirements(file: str, read: Callable[[str], str | None]) -> Requirements:
    """Read a requirements file and what it includes.

    Args:
        file: Its path within the release, with `/`.
        read: The text of a file by its path within the release; None where there is none.

    Raises:
        UpgradeFailed: a line cannot be understood, or needs something outside the release: the text names
            file, line and reason.
    """
    lines = tuple(_lines(file, read, [file]))
    wanted = tuple(_PER_REQUIREMENT.sub("", line) for line in lines if not line.startswith(("-", _PIN)))
    return Requirements(lines, wanted, any(" --hash" in line for line in lines))


def venv_key(requirements: Requirements, python: PythonFacts) -> str:
    """The name of the venv for these requirements, this Python and this platform."""
    said = "\n".join((python.abi, python.platform, requirements.sha256))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def unmet(wanted: Sequence[str], python: PythonFacts) -> tuple[str, ...]:
    """The requirements, their own requirements among them, that the installed set is not enough for."""
    present = {canonicalize_name(each.name): each for each in python.installed}
    missing: dict[str, None] = {}
    seen: set[tuple[str, str]] = set()
    queue = deque((text, "") for text in wanted)
    while queue:
        text, for_extra = queue.popleft()
        requirement = _parse(text)
        if requirement is None or not _applies(requirement, for_extra, python.markers):
            continue
        found = present.get(canonicalize_name(requirement.name))
        if found is None or not _contains(requirement, found.version):
            missing[text] = None
            continue
        for extra in ("", *sorted(requirement.extras)):
            if (key := (canonicalize_name(found.name), extra)) not in seen:
                seen.add(key)
                queue.extend((each, extra) for each in found.requires)
    return tuple(missing)


def freeze(python: PythonFacts) -> str:
    """The installed set as a requirements file."""
    return "".join(
        f"{each.name} @ {each.url}\n" if each.url else f"{each.name}=={each.version}\n"
        for each in sorted(python.installed, key=lambda each: canonicalize_name(each.name))
    )


def constraints(snapshot: str, wanted: Sequence[str]) -> str:
    """The versions of a snapshot that can be held to: not those that a requirement itself rules out.

    Without their local labels, such as `+cpu`: another index need not have that build, and it matches, too.
    """
    asked = [found for text in wanted if (found := _parse(text)) is not None]
    kept: list[str] = []
    for line in snapshot.splitlines():
        pinned = _parse(line)
        if pinned is None or pinned.url is not None or not pinned.specifier:
            continue
        version = next(iter(pinned.specifier)).version
        name = canonicalize_name(pinned.name)
        if all(_contains(each, version) for each in asked if canonicalize_name(each.name) == name):
            kept.append(line.replace(version, _public(version)))
    return "".join(f"{line}\n" for line in kept)


def _lines(file: str, read: Callable[[str], str | None], opened: list[str]) -> Iterator[str]:
    text = read(file)
    if text is None:
        raise _refused(file, "it is not there", "take a source that has it")
    for raw in _joined(text):
        line = " ".join(_COMMENT.sub("", raw).split())
        if not line:
            continue
        if included := _INCLUDE.fullmatch(line):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(file), included["file"].strip("\"'")))
            if name.startswith(("/", "../")) or _URL.match(included["file"]):
                raise _refused(file, f"{line!r} is outside the release", "include only files beside it")
            opened.append(name)
            if len(opened) > _MAX_FILES:
                raise _refused(file, f"{line!r} includes files in a circle", "break the circle")
            pinning = line.startswith(("-c", "--constraint"))
            for inner in _lines(name, read, opened):
                yield f"{_PIN}{inner}" if pinning and not inner.startswith(("-", _PIN)) else inner
        elif editable := _EDITABLE.fullmatch(line):
            raise _refused(
                file,
                f"{editable['what']!r} is to be installed as editable",
                "a venv outlives its source: name a released package",
            )
        else:
            yield line if line.startswith("-") else _checked(file, line)


def _joined(text: str) -> Iterator[str]:
    """Logical lines, as pip joins them: a comment ends what is continued."""
    rest = ""
    for line in text.removeprefix("\ufeff").splitlines():
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            rest += line[:-1]
            continue
        yield rest + (" " + line if line.lstrip().startswith("#") and rest else line)
        rest = ""
    yield rest


def _checked(file: str, line: str) -> str:
    bare = _PER_REQUIREMENT.sub("", line)
    if _FROM_FILE.fullmatch(bare) is None and _parse(bare) is not None:
        return line
    if _URL.match(bare):
        named = re.search(r"#(?:.*&)?egg=([\w.-]+)", bare)
        stem = posixpath.basename(bare.partition("#")[0])
        name = named[1] if named else stem.partition("-")[0] if _FROM_FILE.fullmatch(stem) else None
        if name is None:
            raise _refused(file, f"{bare!r} does not say what package it is", "write `name @ address`")
        return f"{name} @ {line}"
    if bare.startswith((".", "/", "~")) or "/" in bare or _FROM_FILE.fullmatch(bare):
        raise _refused(
            file, f"{bare!r} is a path on this machine", "a venv outlives its source: name a released package"
        )
    raise _refused(file, f"{bare!r} is no requirement", "write it as PEP 508 has it, such as `name>=1.2`")


def _refused(file: str, reason: str, remedy: str) -> UpgradeFailed:
    return UpgradeFailed(f"{file} cannot be installed from: {reason}", remediation=remedy)


def _parse(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _applies(requirement: Requirement, extra: str, markers: Mapping[str, str]) -> bool:
    if requirement.marker is None:
        return not extra
    try:
        return requirement.marker.evaluate({**markers, "extra": extra})
    except (UndefinedEnvironmentName, InvalidVersion, InvalidSpecifier):
        return True


def _public(version: str) -> str:
    try:
        return Version(version).public
    except InvalidVersion:
        return version


def _contains(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier
