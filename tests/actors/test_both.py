"""Two pieces of work side by side: each is waited for, and neither outlives the failure of the other."""

import anyio
import pytest

from mcpkeep.actors.both import both
from mcpkeep.protocol.upgrade.failure import UpgradeFailed

pytestmark = pytest.mark.anyio


async def test_each_goes_on_while_the_other_waits_for_it_and_both_are_answered() -> None:
    first, second = anyio.Event(), anyio.Event()

    async def one() -> str:
        first.set()
        await second.wait()
        return "one"

    async def other() -> int:
        await first.wait()
        second.set()
        return 2

    assert await both(one, other) == ("one", 2)


@pytest.mark.parametrize("which", [0, 1])
async def test_the_failure_of_one_is_raised_once_the_other_was_cancelled_and_has_ended(which: int) -> None:
    ended: list[str] = []

    async def fails() -> None:
        raise UpgradeFailed("the disk is full", remediation="make room")

    async def waits() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("waits")

    pair = (fails, waits) if which == 0 else (waits, fails)
    with pytest.raises(UpgradeFailed, match="the disk is full"):
        await both(*pair)
    assert ended == ["waits"]


async def test_what_the_other_cannot_take_back_when_it_is_cancelled_is_told_too() -> None:
    async def fails() -> None:
        raise UpgradeFailed("nobody can tell", remediation="try again", details={"release": "old"})

    async def cannot_be_taken_back() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise UpgradeFailed("the disk is full", remediation="make room")

    with pytest.raises(UpgradeFailed, match="nobody can tell; and then: the disk is full") as failure:
        await both(cannot_be_taken_back, fails)
    assert (failure.value.remediation, failure.value.details) == ("make room", {"release": "old"})


async def test_a_cancellation_ends_both() -> None:
    ended: list[int] = []

    async def waits(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(number)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await both(lambda: waits(1), lambda: waits(2))
    assert (scope.cancelled_caught, sorted(ended)) == (True, [1, 2])
