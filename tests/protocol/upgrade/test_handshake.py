"""What a server may answer to `initialize`."""

import pytest
from msgspec import Raw

from mcpkeep.protocol.upgrade.failure import UpgradeFailed
from mcpkeep.protocol.upgrade.handshake import (
    LEGACY_VERSIONS,
    ServerInfo,
    initialize_params,
    read_initialize,
    read_result,
)


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_every_legacy_version_is_accepted(version: str) -> None:
    raw = Raw(f'{{"protocolVersion":"{version}","serverInfo":{{"name":"n","version":"1"}},"x":1}}'.encode())
    assert read_initialize(raw) == ServerInfo("n", "1", version)


def test_the_newest_is_offered() -> None:
    assert initialize_params("7") == {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mcpkeep", "version": "7"},
    }


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (
            b'{"protocolVersion":"2031-01-01"}',
            "speaks protocol version '2031-01-01', which mcpkeep does not know",
        ),
        (b"{}", "answer to initialize cannot be read"),
        (b"[]", "answer to initialize cannot be read"),
        (b"", "answer to initialize cannot be read"),
    ],
)
def test_anything_else_is_refused(said: bytes, text: str) -> None:
    with pytest.raises(UpgradeFailed, match=text):
        read_initialize(Raw(said))


def test_a_result_is_an_object_or_refused() -> None:
    assert read_result(Raw(b'{"a":1}'), "tools/list") == {"a": 1}
    with pytest.raises(UpgradeFailed, match="answer to tools/list is no object"):
        read_result(Raw(b"[1]"), "tools/list")
    with pytest.raises(UpgradeFailed, match="answer to tools/list cannot be read"):
        read_result(Raw(b""), "tools/list")
