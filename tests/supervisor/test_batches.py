"""Pieces of work that share trips into threads: who goes along, who fails, who is cancelled."""

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import pytest

from mcpkeep.supervisor.batches import Batches

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def limited() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """Tasks that fail where they would wait forever."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            yield tasks


class Desk:
    """Work that notes its trips; each waits for a word, and pieces named `bad` fail."""

    def __init__(self) -> None:
        self.trips: list[tuple[str, ...]] = []
        self.begun = anyio.Event()
        self.go = threading.Semaphore(0)
        self.broken = False

    def work(self, pieces: Sequence[str]) -> list[str | Exception]:
        self.trips.append(tuple(sorted(pieces)))  # trio starts tasks in any order
        anyio.from_thread.run_sync(self.begun.set)
        assert self.go.acquire(timeout=60)
        if self.broken:
            raise OSError("the whole trip failed")
        return [ValueError(piece) if piece.startswith("bad") else piece.upper() for piece in pieces]


class Calls:
    """Calls under way, by their piece."""

    def __init__(self, batches: Batches[str, str], tasks: anyio.abc.TaskGroup) -> None:
        self.ends: dict[str, str | Exception] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}
        self._batches = batches
        self._tasks = tasks

    async def begin(self, *pieces: str) -> None:
        """Start the calls, and let each come as far as it can."""
        for piece in pieces:
            self._tasks.start_soon(self._call, piece)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    async def _call(self, piece: str) -> None:
        with anyio.CancelScope() as self.scopes[piece]:
            try:
                self.ends[piece] = await self._batches(piece)
            except Exception as error:
                self.ends[piece] = error


async def test_what_is_called_at_once_is_shared_out_among_the_threads() -> None:
    desk = Desk()
    desk.go.release(2)
    async with limited() as tasks:
        calls = Calls(Batches(desk.work, threads=2), tasks)
        await calls.begin("a", "b", "c", "d", "e")
    assert sorted(map(len, desk.trips)) == [2, 3]
    assert calls.ends == {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}


async def test_what_comes_while_a_thread_is_busy_goes_along_in_the_next_trip() -> None:
    desk = Desk()
    async with limited() as tasks:
        calls = Calls(Batches(desk.work, threads=1), tasks)
        await calls.begin("a")
        await desk.begun.wait()
        await calls.begin("b", "c", "d")
        assert calls.ends == {}
        desk.go.release(2)
    assert desk.trips == [("a",), ("b", "c", "d")]
    assert calls.ends == {"a": "A", "b": "B", "c": "C", "d": "D"}


async def test_a_piece_that_fails_fails_alone() -> None:
    desk = Desk()
    desk.go.release()
    async with limited() as tasks:
        calls = Calls(Batches(desk.work, threads=1), tasks)
        await calls.begin("a", "bad", "c")
    assert {piece: str(end) for piece, end in calls.ends.items()} == {"a": "A", "bad": "bad", "c": "C"}
    assert isinstance(calls.ends["bad"], ValueError)


async def test_a_trip_that_fails_fails_for_everyone_on_it_and_for_nobody_after() -> None:
    desk = Desk()
    desk.broken = True
    desk.go.release()
    batches = Batches(desk.work, threads=1)
    async with limited() as tasks:
        calls = Calls(batches, tasks)
        await calls.begin("a", "b")
    assert [str(end) for end in calls.ends.values()] == ["the whole trip failed"] * 2
    desk.broken = False
    desk.go.release()
    assert await batches("c") == "C"


async def test_a_call_that_is_cancelled_while_it_waits_is_never_begun_and_holds_nobody_up() -> None:
    desk = Desk()
    async with limited() as tasks:
        calls = Calls(Batches(desk.work, threads=1), tasks)
        await calls.begin("a")
        await desk.begun.wait()
        await calls.begin("b", "c")
        calls.scopes["b"].cancel()
        desk.go.release(2)
    assert desk.trips == [("a",), ("c",)]
    assert calls.ends == {"a": "A", "c": "C"}


async def test_after_a_trip_whose_calls_were_all_cancelled_the_next_one_goes() -> None:
    desk = Desk()
    async with limited() as tasks:
        calls = Calls(Batches(desk.work, threads=1), tasks)
        await calls.begin("a", "b")
        await desk.begun.wait()
        await calls.begin("c")
        for piece in ("a", "b"):
            calls.scopes[piece].cancel()
        desk.go.release(2)
    assert desk.trips == [("a", "b"), ("c",)]
    assert calls.ends["c"] == "C"


async def test_cancelling_whoever_was_just_woken_to_go_leaves_nobody_behind() -> None:
    desk = Desk()
    async with limited() as tasks:
        batches = Batches(desk.work, threads=1)
        calls = Calls(batches, tasks)

        async def first() -> None:
            await batches("a")
            calls.scopes["b"].cancel()  # in the same turn of the loop as it was woken

        tasks.start_soon(first)
        await desk.begun.wait()
        await calls.begin("b")
        await calls.begin("c")
        desk.go.release(2)
    assert calls.ends["c"] == "C"


async def test_hundreds_of_calls_with_cancellations_are_each_ended_once() -> None:
    done: list[int] = []

    def work(pieces: Sequence[int]) -> list[int | Exception]:
        done.extend(pieces)
        return list(pieces)

    batches: Batches[int, int] = Batches(work, threads=3)
    answered: list[int] = []

    async def call(n: int) -> None:
        with anyio.CancelScope() as scope:
            if n % 7 == 0:
                scope.cancel()
            for _ in range(n % 5):
                await anyio.lowlevel.checkpoint()
            answered.append(await batches(n))

    async with limited() as tasks:
        for n in range(300):
            tasks.start_soon(call, n)
    assert len(done) == len(set(done))
    assert set(answered) <= set(done)
    assert {n for n in range(300) if n % 7} <= set(answered)
