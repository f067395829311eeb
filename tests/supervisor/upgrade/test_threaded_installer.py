"""The installer behind the loop: progress arrives there, cancellation ends the processes first."""

import os
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mcpkeep.actors.installer import InstallerActor
from mcpkeep.protocol.upgrade.release import (
    AdoptRelease,
    CancelInstall,
    GetInstallStatus,
    GetSnapshot,
    InstallCancelled,
    InstallRefused,
    InstallStatus,
    PostInstallDone,
    Pruned,
    PruneReleases,
    ReleaseMade,
    RunPostInstall,
    Snapshot,
)
from mcpkeep.supervisor.upgrade.installer import Installer
from mcpkeep.supervisor.upgrade.threaded_installer import ThreadedInstaller
from tests.supervisor.upgrade.installation import World, make_world, order, write_code


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.anyio
async def test_the_actor_answers_from_a_real_installation(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    write_code(tmp_path / "code", "alpha>=2\n", version="2")
    steps: list[str] = []
    actor = InstallerActor(ThreadedInstaller(world.installer(layout)), progress=steps.append)
    async with anyio.create_task_group() as tasks:
        await tasks.start(actor.run)
        with anyio.fail_after(60):
            adopted = await actor.ask(AdoptRelease(session_id="s"), within=60)
            assert isinstance(adopted, ReleaseMade)
            made = await actor.ask(order(tmp_path / "code"), within=60)
            assert isinstance(made, ReleaseMade)
            assert made.packages == 2
            snapshot = await actor.ask(GetSnapshot("adopted"), within=60)
            assert isinstance(snapshot, Snapshot)
            ran = await actor.ask(RunPostInstall(made.release.release_id), within=60)
            assert ran == PostInstallDone(())
            refused = await actor.ask(GetSnapshot("none"), within=60)
            assert refused == InstallRefused(
                "there is no release 'none'", "take one of: 2026-01-31-a1b2c3d, adopted"
            )
            pruned = await actor.ask(PruneReleases(()), within=60)
            assert pruned == Pruned((made.release.release_id,), (made.release.venv,))
        actor.stop()
    assert "copying the live code into release adopted" in steps
    assert any(step.startswith("uv: Installed 2 packages") for step in steps)


@pytest.mark.anyio
async def test_a_cancelled_build_is_taken_back_before_anybody_is_told(world: World, tmp_path: Path) -> None:
    layout = world.installation(tmp_path / "w", installed=("alpha==1.0",))
    write_code(tmp_path / "code", "alpha>=2\n", version="2")
    started = tmp_path / "started"
    os.mkfifo(started)
    slow = tmp_path / "uv"
    slow.write_text(f"#!/bin/sh\necho > {started}\nexec sleep 1000\n")
    slow.chmod(0o755)
    installer = Installer(layout, environ=world.environ, uv=str(slow))
    actor = InstallerActor(ThreadedInstaller(installer))
    async with anyio.create_task_group() as tasks:
        await tasks.start(actor.run)
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await actor.ask(order(tmp_path / "code"), within=60))

        with anyio.fail_after(60):
            assert isinstance(await actor.ask(AdoptRelease(session_id="s"), within=60), ReleaseMade)
            async with anyio.create_task_group() as asking:
                asking.start_soon(ask)
                await anyio.to_thread.run_sync(started.read_bytes)
                status = await actor.ask(GetInstallStatus(), within=10)
                assert status == InstallStatus("install.make", "looking at the venv")
                cancelled = await actor.ask(CancelInstall(), within=30)
                assert cancelled == InstallCancelled("install.make")
                assert sorted(os.listdir(layout.releases)) == ["adopted"]
                assert len(os.listdir(layout.venvs)) == 2
        assert answers == [InstallRefused("it was cancelled; nothing of it is left", "ask again")]
        assert await actor.ask(GetInstallStatus(), within=10) == InstallStatus(None)
        actor.stop()
