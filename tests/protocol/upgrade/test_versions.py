"""Versions are compared by their numbers."""

import pytest

from mcpkeep.protocol.upgrade.versions import is_older


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("v1.9.0", "v1.10.0", True),
        ("v1.10.0", "v1.9.0", False),
        ("1.0", "v1.0.1-3-gabcdef1", True),
        ("v2.0.0", "v2.0.0", False),
        ("abc1234", "v2.0.0", False),
        ("v1.0.0", "unknown", False),
    ],
)
def test_a_version_is_older_by_its_numbers(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) is older
