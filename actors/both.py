"""Two pieces of an upgrade's work side by side."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from mcpkeep.protocol.upgrade.failure import UpgradeFailed

__all__ = ["both"]

A = TypeVar("A")
B = TypeVar("B")


async def both(one: Callable[[], Awaitable[A]], other: Callable[[], Awaitable[B]]) -> tuple[A, B]:
    """Do both at once; answers what each came to. Where one fails, the other is cancelled.

    Raises UpgradeFailed: that of the one which failed first, after the other has ended, too; with what the
    other could not take back, where it failed in that.
    """
    ones: list[A] = []
    others: list[B] = []
    failures: list[UpgradeFailed] = []

    async def do_other() -> None:
        try:
            others.append(await other())
        except UpgradeFailed as failed:
            failures.append(failed)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(do_other)
        try:
            ones.append(await one())
        except UpgradeFailed as failed:
            failures.append(failed)
            tasks.cancel_scope.cancel()
    if len(failures) > 1:
        first, last = failures
        raise UpgradeFailed(
            f"{first}; and then: {last}",
            remediation=last.remediation,
            details={**first.details, **last.details},
        )
    if failures:
        raise failures[0]
    return ones[0], others[0]
