"""The tool `mcpkeep` in front of a real child actor with a fake host: what an agent is answered."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw

from mcpkeep.actors.child import ChildActor
from mcpkeep.actors.keep_tool import KeepTool
from mcpkeep.protocol.child import ChildSettings
from mcpkeep.protocol.errors import SpawnError
from mcpkeep.protocol.relay.health import HealthSettings
from mcpkeep.protocol.relay.relay import Relay, RelaySettings
from mcpkeep.protocol.restart import RestartPolicy
from mcpkeep.protocol.switch import (
    CallsHeld,
    ChildAttached,
    ChildDrained,
    ChildReady,
    RelayOrder,
)
from tests.actors.fake_process import FakeProcess

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class World:
    """Host and relay of one child actor. Each child is ready and drained as soon as that is asked of it."""

    def __init__(self) -> None:
        self.failing = False
        self.answering = True
        self.orders: list[RelayOrder] = []
        self.relay = Relay(
            own_tools=(), settings=RelaySettings(health=HealthSettings(after_idle=0)), own_prefix="k/"
        )
        self.child = ChildActor(
            "server",
            ChildSettings(restart=RestartPolicy(intensity=0, backoff_base=0)),
            host=self,
            relay=self,
            notify=lambda _notice: None,
            chance=lambda: 1.0,
        )
        self.tool = KeepTool(
            child=self.child,
            relay_status=self.relay.status,
            stderr_lines=lambda count: tuple(f"line {n}" for n in range(100))[-count:],
            about=lambda: {"version": "1"},
            restart_limit=5,
        )

    async def spawn(self, generation: int, release: str | None) -> FakeProcess:
        if self.failing:
            raise SpawnError("server", "no such file")
        return FakeProcess(generation)

    def order(self, order: RelayOrder) -> None:
        self.orders.append(order)
        match order:
            case ChildAttached(generation) if self.answering:
                self.child.tell(ChildReady(generation))
            case CallsHeld():
                self.child.tell(ChildDrained(1))
            case _:
                pass

    async def ask(self, arguments: bytes) -> tuple[dict[str, Any], bool]:
        result = await self.tool.call(Raw(arguments), lambda _done, _total, _text: None)
        return msgspec.json.decode(result.structured), result.is_error


@asynccontextmanager
async def running() -> AsyncGenerator[World]:
    world = World()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(world.child.run)
            yield world
            world.child.stop()
            await world.child.stopped()


async def test_status_tells_of_the_server_the_session_and_ourselves() -> None:
    async with running() as world:
        answer, is_error = await world.ask(b'{"action":"status"}')
        assert not is_error and (answer["status"], answer["action"]) == ("success", "status")
        assert (answer["server"]["pid"], answer["server"]["command"]) == (1001, "server")
        assert answer["session"] == msgspec.json.decode(msgspec.json.encode(world.relay.status()))
        assert answer["mcpkeep"] == {"version": "1"}


@pytest.mark.parametrize("mode", [b"", b',"mode":"overlap"', b',"mode":"hold"', b',"mode":null'])
async def test_restart_answers_once_the_new_server_serves(mode: bytes) -> None:
    async with running() as world:
        answer, is_error = await world.ask(b'{"action":"restart"' + mode + b"}")
        assert not is_error and (answer["status"], answer["restarted"]) == ("success", True)
        assert answer["server"]["pid"] == 1002
        assert (CallsHeld() in world.orders) is (b"hold" in mode)


async def test_a_restart_that_fails_tells_why_and_what_serves_now() -> None:
    async with running() as world:
        world.failing = True
        answer, is_error = await world.ask(b'{"action":"restart","mode":"overlap","lines":2}')
        assert is_error
        assert (answer["status"], answer["error_type"]) == ("error", "RestartFailed")
        assert "no such file" in answer["error"]
        assert answer["remediation"].startswith("The former server still serves.")
        assert answer["stderr_tail"] == ["line 98", "line 99"]
        status, _ = await world.ask(b'{"action":"status"}')
        assert status["server"]["pid"] == 1001


async def test_logs_are_the_last_lines() -> None:
    async with running() as world:
        answer, _ = await world.ask(b'{"action":"logs","lines":2}')
        assert answer == {"status": "success", "action": "logs", "lines": ["line 98", "line 99"], "count": 2}
        answer, _ = await world.ask(b'{"action":"logs"}')
        assert answer["count"] == 50


@pytest.mark.parametrize(
    "arguments",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"7",
        b'{"action":"explode"}',
        b'{"action":7}',
        b'{"action":"logs","lines":0}',
        b'{"action":"logs","lines":1e400}',
        b'{"action":"logs","unknown":1}',
        b'{"action":"restart","mode":"both"}',
    ],
)
async def test_arguments_that_are_wrong_are_refused_with_the_actions_there_are(arguments: bytes) -> None:
    async with running() as world:
        answer, is_error = await world.ask(arguments)
        assert is_error
        assert (answer["status"], answer["error_type"], answer["action"]) == ("error", "ValueError", None)
        assert answer["valid_actions"] == ["logs", "restart", "status"]


async def test_a_supervisor_that_has_left_is_told_as_a_state_and_not_as_a_bug() -> None:
    async with running() as world:
        world.child.stop()
        await world.child.stopped()
        answer, is_error = await world.ask(b'{"action":"status"}')
        assert is_error and (answer["error_type"], answer["action"]) == ("StateError", "status")
        assert (await world.ask(b'{"action":"logs"}'))[1] is False
