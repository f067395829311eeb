"""Finds and reads the configuration file of a workspace."""

import os

from mcpkeep.protocol.config import ConfigFile
from mcpkeep.protocol.errors import ConfigError

__all__ = ["find_config", "read_config"]

_NAMES = ("mcpkeep.toml", os.path.join(".praxis-os", "mcpkeep.toml"))
_MOST_BYTES = 256 * 1024


def find_config(workspace: str) -> tuple[str | None, str | None]:
    """The configuration file of the workspace, and a warning where a second one is passed over."""
    found = [path for name in _NAMES if os.path.lexists(path := os.path.join(workspace, name))]
    if len(found) < 2:
        return (found[0] if found else None), None
    return found[0], f"{found[0]} is used and {found[1]} is not; keep one of the two"


def read_config(path: str) -> ConfigFile:
    """Read one file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or is no plain configuration text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; the configuration is a file") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason.lower()}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than {_MOST_BYTES} bytes; is it the configuration?")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}:1: begins with a byte order mark; save it as UTF-8 without one")
    try:
        return ConfigFile(path, data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8: the byte {data[error.start : error.start + 1]!r}; save it as UTF-8"
        ) from None
