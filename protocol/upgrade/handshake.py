"""What mcpkeep says to a server it tries, and what of the answers it believes."""

from typing import cast

import msgspec
from msgspec import Raw

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["LEGACY_VERSIONS", "ServerInfo", "initialize_params", "read_initialize", "read_result"]

LEGACY_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The revisions with `initialize`, newest first: what is offered, and what may be answered instead."""

_REMEDY = "report it upstream, or choose another commit"


class ServerInfo(msgspec.Struct, frozen=True):
    """How the server introduced itself."""

    name: str
    version: str
    protocol: str


class _Implementation(msgspec.Struct):
    name: str = ""
    version: str = ""


class _Initialized(msgspec.Struct, rename="camel"):
    protocol_version: str
    server_info: _Implementation = msgspec.field(default_factory=_Implementation)


def initialize_params(client_version: str) -> dict[str, object]:
    """What `initialize` is asked with; no capability is claimed."""
    return {
        "protocolVersion": LEGACY_VERSIONS[0],
        "capabilities": {},
        "clientInfo": {"name": "mcpkeep", "version": client_version},
    }


def read_initialize(result: Raw) -> ServerInfo:
    """Read the answer.

    Raises:
        UpgradeFailed: it is none, or of a protocol version that mcpkeep does not know.
    """
    try:
        said = msgspec.json.decode(result, type=_Initialized)
    except msgspec.DecodeError as error:
        raise UpgradeFailed(
            f"the server's answer to initialize cannot be read: {error}", remediation=_REMEDY
        ) from error
    if said.protocol_version not in LEGACY_VERSIONS:
        raise UpgradeFailed(
            f"the server speaks protocol version {said.protocol_version!r}, which mcpkeep does not know; it "
            f"offered {LEGACY_VERSIONS[0]!r}",
            remediation="update mcpkeep, or choose another commit",
        )
    return ServerInfo(said.server_info.name, said.server_info.version, said.protocol_version)


def read_result(result: Raw, method: str) -> dict[str, object]:
    """A result as a decoded object.

    Raises:
        UpgradeFailed: it is something else.
    """
    try:
        found: object = msgspec.json.decode(result)
    except msgspec.DecodeError as error:
        raise UpgradeFailed(
            f"the server's answer to {method} cannot be read: {error}", remediation=_REMEDY
        ) from error
    if not isinstance(found, dict):
        raise UpgradeFailed(f"the server's answer to {method} is no object", remediation=_REMEDY)
    return cast("dict[str, object]", found)
