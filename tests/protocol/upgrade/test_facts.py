"""How much room an upgrade asks for, and what is said where there is less."""

import pytest

from mcpkeep.protocol.upgrade.facts import Problem, SourceFacts, SpaceNeeded, TargetFacts, space_needed

MB = 10**6


@pytest.mark.parametrize(
    ("source", "target", "code", "needed"),
    [
        ("a", "a", True, SpaceNeeded(6 * MB, 0)),
        ("a", "b", True, SpaceNeeded(2006 * MB, 2000 * MB)),
        ("a", "b", False, SpaceNeeded(6 * MB, 0)),
        ("a", None, True, SpaceNeeded(2006 * MB, 2000 * MB)),
        (None, None, True, SpaceNeeded(2006 * MB, 2000 * MB)),
        (None, None, False, SpaceNeeded(6 * MB, 0)),
    ],
)
def test_a_new_venv_is_asked_for_where_one_may_be_made(
    source: str | None, target: str | None, code: bool, needed: SpaceNeeded
) -> None:
    found = TargetFacts(
        exists=True,
        structure_valid=True,
        bytes_available=0,
        content_bytes=3 * MB,
        venv_bytes=2000 * MB,
        requirements_sha256=target,
    )
    assert space_needed(SourceFacts("/s", requirements_sha256=source), found, code=code) == needed


def test_too_little_room_is_told_with_both_sizes_and_the_venv_s_share() -> None:
    remedy = "free space; older backups go with `[upgrade] keep`"
    assert SpaceNeeded(2006 * MB, 2000 * MB).problem(5 * MB) == Problem(
        "not enough disk space: 2.0 GB needed (2.0 GB of it for a new venv), 5.0 MB free", remedy
    )
    assert SpaceNeeded(6 * MB, 0).problem(5 * MB) == Problem(
        "not enough disk space: 6.0 MB needed, 5.0 MB free", remedy
    )
    assert SpaceNeeded(6 * MB, 0).problem(6 * MB) is None
