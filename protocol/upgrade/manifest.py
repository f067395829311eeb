"""Upstream's `.universal-manifest.json`: checksums of what is under `universal/`, as its author believed.

The shipped ones are stale more often than not, so nothing is decided by a source's manifest.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from mcpkeep.protocol.upgrade.names import hostile_name, installed_path

__all__ = [
    "MANIFEST",
    "InstalledFile",
    "Manifest",
    "ManifestEntry",
    "ManifestUnreadable",
    "by_installed_path",
    "encode_manifest",
    "hostile_entries",
    "lies",
    "read_manifest",
]

MANIFEST = ".universal-manifest.json"
_UNIVERSAL = "universal/"
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")


class ManifestUnreadable(ValueError):
    """It is no manifest."""


class ManifestEntry(msgspec.Struct, frozen=True):
    """One file."""

    checksum: str
    """`sha256:` and 64 hexadecimal digits."""
    size: int = 0
    """Bytes."""
    last_updated: str = ""
    """YYYY-MM-DD."""


class Manifest(msgspec.Struct, frozen=True):
    """The file; members that are not known are passed over."""

    files: Mapping[str, ManifestEntry]
    """By path relative to `universal/`."""
    version: str = ""
    generated: str = ""
    generator_version: str = ""


class InstalledFile(NamedTuple):
    """What an entry is written of."""

    sha256: str
    size: int
    last_updated: datetime


def read_manifest(data: bytes) -> Manifest:
    """Decode one. Raises ManifestUnreadable."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ManifestUnreadable(f"the manifest cannot be read: {error}") from error


def encode_manifest(files: Mapping[str, InstalledFile], *, version: str, generated: datetime) -> bytes:
    """Encode one, of files by their path relative to `universal/`."""
    entries = {
        path: ManifestEntry(
            f"sha256:{file.sha256}", file.size, file.last_updated.astimezone(UTC).date().isoformat()
        )
        for path, file in sorted(files.items())
    }
    at = generated.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = Manifest(files=entries, version=version, generated=at, generator_version="mcpkeep")
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def hostile_entries(manifest: Manifest) -> Mapping[str, str]:
    """The paths that no honest manifest has, and why."""
    return {path: reason for path in manifest.files if (reason := hostile_name(path)) is not None}


def lies(manifest: Manifest, checksums: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths whose checksum is not the file's, and those of no file; `checksums` is SHA-256 by path."""
    wrong = [
        path for path, entry in manifest.files.items() if entry.checksum != f"sha256:{checksums.get(path)}"
    ]
    return tuple(p for p in wrong if p in checksums), tuple(p for p in wrong if p not in checksums)


def by_installed_path(manifest: Manifest) -> Mapping[str, str]:
    """SHA-256 by the path where the file is installed; entries that make no sense are passed over."""
    found: dict[str, str] = {}
    for path, entry in manifest.files.items():
        place = None if hostile_name(path) else installed_path(_UNIVERSAL + path)
        if place is not None and _CHECKSUM.fullmatch(entry.checksum):
            found[place] = entry.checksum.removeprefix("sha256:")
    return found
