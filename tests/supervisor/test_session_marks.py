"""Whose upgrade was rolled back is told so, where it is a workflow's session; most upgrades are nobody's."""

import logging
from pathlib import Path

import pytest

from mcpkeep.supervisor.session_marks import mark_session_rolled_back

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "session_id",
    ["5f3b0c52-3f5e-4d0c-9a2a-6f0c6a1f2b3c", "rollback-5f3b0c52-3f5e-4d0c-9a2a-6f0c6a1f2b3c"],
    ids=["of a command", "of a rollback"],
)
async def test_an_upgrade_that_no_workflow_led_is_rolled_back_without_a_word_of_sessions(
    tmp_path: Path, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".praxis-os").mkdir()
    caplog.set_level(logging.DEBUG, "mcpkeep")
    await mark_session_rolled_back(tmp_path)(session_id, "rolled back")
    assert caplog.messages == []
