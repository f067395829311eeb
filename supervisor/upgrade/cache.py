"""What can be worked out again, in the user's cache folder; damaged or missing, it is."""

import contextlib
import hashlib
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

__all__ = ["Cache", "user_cache_folder"]

T = TypeVar("T")

# Above this many entries the oldest go; one source in use has two.
_MOST = 64
_DIGEST = 32


def user_cache_folder(environ: Mapping[str, str], home: str, platform: str = sys.platform) -> Path:
    """Where this user's caches are by the platform's custom."""
    if platform == "darwin":
        return Path(home, "Library", "Caches", "mcpkeep")
    named = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return Path(named if os.path.isabs(named) else os.path.join(home, ".cache"), "mcpkeep")


class Cache:
    """Values by key, each in a file of its own; no call raises."""

    def __init__(self, folder: Path | None) -> None:
        """None for one that keeps nothing."""
        self._folder = folder

    def without(self, *folders: Path) -> "Cache":
        """The same, or one that keeps nothing where it lies in one of these folders."""
        if self._folder is None:
            return self
        here = Path(os.path.realpath(self._folder))
        inside = any(here.is_relative_to(os.path.realpath(folder)) for folder in folders)
        return Cache(None) if inside else self

    def read(self, key: str, type: type[T]) -> T | None:
        """The value; None where there is none that is whole."""
        if self._folder is None:
            return None
        try:
            data = (self._folder / key).read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                return None
            return msgspec.msgpack.decode(memoryview(data)[_DIGEST:], type=type)
        except (OSError, msgspec.DecodeError, ValueError):
            return None

    def write(self, key: str, value: object) -> None:
        """Keep a value."""
        if self._folder is None:
            return
        data = msgspec.msgpack.encode(value)
        temp = self._folder / f".{key}.{secrets.token_hex(4)}.tmp"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temp.write_bytes(hashlib.sha256(data).digest() + data)
            temp.replace(self._folder / key)
            self._trim()
        except OSError:
            with contextlib.suppress(OSError):
                temp.unlink()

    def _trim(self) -> None:
        assert self._folder is not None
        with os.scandir(self._folder) as found:
            entries = sorted((entry.stat().st_mtime_ns, entry.path) for entry in found)
        for _, path in entries[:-_MOST]:
            os.unlink(path)
