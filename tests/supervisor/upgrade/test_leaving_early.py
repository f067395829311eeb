"""The upgrade actor and what stands behind it, where they are to leave while they are being started."""

import asyncio
import os
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mcpkeep.protocol.config import Upgrade
from mcpkeep.supervisor.upgrade.direct import DirectServer
from mcpkeep.supervisor.upgrade.layout import Layout
from mcpkeep.supervisor.upgrade.world import make_parts, running_upgrades

pytestmark = pytest.mark.anyio

LIMIT = 60.0
"""Seconds for any one wait: a hang becomes a failure."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_cancelled_before_the_first_of_them_has_started_they_end(tmp_path: Path) -> None:
    """What is read just before is a FIFO here, so that the test knows where they are."""
    layout = Layout(tmp_path, tmp_path / ".praxis-os")
    layout.own.mkdir(parents=True)
    os.mkfifo(layout.own / "probation.json")
    ended, in_time = anyio.Event(), False

    async def run() -> None:
        try:
            async with (
                DirectServer(layout, run_id="0" * 32) as live,
                running_upgrades(
                    make_parts(layout),
                    Upgrade(),
                    live=live,
                    run_id="0" * 32,
                    child_env={},
                    recovered=(),
                    notify=lambda _: None,
                    heard=lambda _: None,
                    mark_rolled_back=_unasked,
                ),
            ):
                raise AssertionError("they were started")
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        writer = await anyio.to_thread.run_sync(os.open, layout.own / "probation.json", os.O_WRONLY)
        tasks.cancel_scope.cancel()
        os.close(writer)
        with anyio.CancelScope(shield=True), anyio.move_on_after(LIMIT):
            await ended.wait()
        in_time = ended.is_set()
        for task in () if in_time else asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # not anyio's: what is shielded from that would hang the test
    assert in_time


async def _unasked(_session: str, _reason: str) -> None:
    raise AssertionError("nothing was rolled back")
