"""Makes smoke tests of a server, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import anyio

from mcpkeep.protocol.upgrade.failure import ServerEnded, UpgradeFailed
from mcpkeep.protocol.upgrade.proof import SmokeResult, SmokeTest
from mcpkeep.protocol.upgrade.smoke import CALL_LIMIT, SmokeRun, judge_answer, judge_failure

__all__ = ["ToolCaller", "make_smoke_tests"]


class ToolCaller(Protocol):
    """A server whose tools can be called."""

    async def call(
        self, tool: str, arguments: Mapping[str, object], *, within: float
    ) -> Mapping[str, object]:
        """Call a tool, and answer the result object. Seconds.

        Raises UpgradeFailed; its kind ServerEnded where there is no server any more.
        """
        ...


async def make_smoke_tests(
    server: ToolCaller, runs: Sequence[SmokeRun], *, within: float = CALL_LIMIT
) -> tuple[SmokeResult, ...]:
    """Make each, in order; a result per run. Seconds for each call.

    Raises:
        ServerEnded: the server ended meanwhile.
    """
    return tuple([await _make(server, run, within) for run in runs])


async def _make(server: ToolCaller, run: SmokeRun, within: float) -> SmokeResult:
    if run.skipped:
        return SmokeResult(run.name, run.tool, "skipped", run.skipped)
    began = anyio.current_time()
    result = SmokeResult(run.name, run.tool, "passed")
    for test in run.calls:
        result = await _call(server, test, within, began)
        if result.status == "failed":
            break
    if run.closing is not None:
        closed = await _call(server, run.closing, within, began)
        result = closed if result.status == "passed" else result
    return result


async def _call(server: ToolCaller, test: SmokeTest, within: float, began: float) -> SmokeResult:
    try:
        answer = await server.call(test.tool, test.arguments, within=within)
    except ServerEnded:
        raise
    except UpgradeFailed as error:
        return judge_failure(test, str(error), seconds=anyio.current_time() - began)
    return judge_answer(test, answer, seconds=anyio.current_time() - began)
