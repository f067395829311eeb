"""The tool `pos_workflow` for tests: in this process, or through the official client on `mcpkeep run`."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
from mcp import Client, StdioServerParameters
from msgspec import Raw

from mcpkeep.actors.phase_runs import PhaseRunner
from mcpkeep.actors.toolbox import Toolbox
from mcpkeep.protocol.relay.tools import ToolCall
from mcpkeep.protocol.workflow.tool import WORKFLOW_TOOL
from mcpkeep.supervisor.workflow import Workflows
from tests.benchmarks.line import environment, mcpkeep_command
from tests.servers import fast_command

__all__ = [
    "PHASE_ONE",
    "Answer",
    "Tool",
    "connected",
    "make_workflow",
    "make_workspace",
    "own",
    "served",
    "tool_of",
]

Answer = dict[str, Any]
Tool = Callable[..., Awaitable[Answer]]

LIMIT = 60.0
"""Seconds for any one answer: a hang becomes a failure."""

PHASE_ONE = {"code_structure": {"parse": {"takes": "text"}}, "test_candidates": ["parse refuses junk"]}
"""What the gate of phase 1 of test_generation_v3 accepts."""


def make_workspace(folder: Path) -> Path:
    """A workspace with prAxIs OS, as far as mcpkeep cares."""
    (folder / ".praxis-os").mkdir(parents=True)
    return folder


def make_workflow(
    workspace: Path, name: str, *, phases: int = 2, first: int = 1, gate: str | None = None
) -> Path:
    """A workflow with short phases, each with the same gate: a boolean `done` unless another is given."""
    folder = workspace / ".praxis-os" / "workflows" / name
    folder.mkdir(parents=True)
    numbers = range(first, first + phases)
    metadata = {
        "workflow_type": name,
        "description": "for tests",
        "total_phases": phases,
        "phases": [{"phase_number": n, "phase_name": f"Phase {n}", "purpose": f"do {n}"} for n in numbers],
    }
    (folder / "metadata.json").write_bytes(msgspec.json.encode(metadata))
    for number in numbers:
        phase = folder / "phases" / str(number)
        phase.mkdir(parents=True)
        (phase / "phase.md").write_text(f"# Phase {number}\n\n### Task 1: Do it\n\n1. Begin\n2. End\n")
        (phase / "gate-definition.yaml").write_text(
            gate
            or "checkpoint: {strict: true}\nevidence_schema:\n"
            "  done: {type: boolean, required: true, description: whether it is done, validator: yes_}\n"
            'validators: {yes_: "lambda x: x"}\n'
        )
    return folder


@asynccontextmanager
async def served(
    workspace: Path,
    *,
    runners: Mapping[str, PhaseRunner] | None = None,
    bugs: list[Exception] | None = None,
    state: Path | None = None,
) -> AsyncGenerator[Tool]:
    """The tool as `mcpkeep run` serves it, without the relay."""

    def on_bug(what: str, error: Exception) -> str:
        if bugs is None:
            raise error
        bugs.append(error)
        return "the log"

    state_dir = str(state) if state is not None else None
    workflows = Workflows(
        str(workspace), state_dir, who="a test", on_bug=on_bug, runners=lambda: runners or {}
    )
    toolbox = Toolbox((WORKFLOW_TOOL, workflows.call), on_bug=on_bug)

    async def tool(raw: bytes | None = None, /, **arguments: object) -> Answer:
        data = msgspec.json.encode(arguments) if raw is None else raw
        call = ToolCall(id=1, name=WORKFLOW_TOOL.name, arguments=Raw(data))
        with anyio.fail_after(LIMIT):
            result = await toolbox.call(call, lambda done, total, text: None)
        answer: Answer = msgspec.json.decode(result.structured)
        assert result.is_error == (answer["status"] == "error")
        return answer

    async with anyio.create_task_group() as tasks:
        await tasks.start(workflows.run)
        try:
            yield tool
        finally:
            await workflows.close()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected(workspace: Path, *, server: list[str] | None = None) -> AsyncGenerator[Client]:
    """The official client on `mcpkeep run` in this workspace."""
    command = mcpkeep_command(fast_command() if server is None else server)
    parameters = StdioServerParameters(
        command=command[0],
        args=command[1:],
        env=environment() | {"XDG_STATE_HOME": str(workspace / "user-state")},
        cwd=workspace,
    )
    async with Client(parameters, read_timeout_seconds=LIMIT) as client:
        yield client


def tool_of(client: Client) -> Tool:
    """The tool as a client calls it."""

    async def tool(**arguments: object) -> Answer:
        result = await client.call_tool(WORKFLOW_TOOL.name, dict(arguments))
        answer: Answer = result.structured_content or {}
        assert result.is_error == (answer["status"] == "error")
        return answer

    return tool


async def own(client: Client, **arguments: object) -> Answer:
    """A call of the tool `mcpkeep`."""
    result = await client.call_tool("mcpkeep", dict(arguments))
    answer: Answer = result.structured_content or {}
    return answer
