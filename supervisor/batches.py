"""Small pieces of blocking work, taken to worker threads together: the way there costs more than the work."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ["Batches"]

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")


class _Waiting(Generic[Piece, Outcome]):
    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.taken = False
        self.outcome: Outcome | Exception | None = None
        self.woken = anyio.Event()


class Batches(Generic[Piece, Outcome]):
    """Calls with one piece of work each. Whoever finds a thread free takes its share of all that wait along.

    `work` runs in the threads, gets pieces in the order of the calls, and gives the outcome of each, an
    exception where it failed; none is None. What it raises fails all it was given.
    """

    def __init__(
        self, work: Callable[[Sequence[Piece]], Sequence[Outcome | Exception]], *, threads: int
    ) -> None:
        self._work = work
        self._limiter = anyio.CapacityLimiter(threads)
        self._free = threads
        self._drawing = 0
        self._waiting: deque[_Waiting[Piece, Outcome]] = deque()

    async def __call__(self, piece: Piece) -> Outcome:
        """The outcome of the piece, or what it failed with. Cancelled before it was begun, it never is."""
        mine: _Waiting[Piece, Outcome] = _Waiting(piece)
        self._waiting.append(mine)
        try:
            while mine.outcome is None:
                if self._free and not mine.taken:
                    await self._lead()
                else:
                    await mine.woken.wait()
                    mine.woken = anyio.Event()
        finally:
            if not mine.taken:
                self._waiting.remove(mine)
            self._wake()
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    async def _lead(self) -> None:
        self._free -= 1
        self._drawing += 1
        try:
            with anyio.CancelScope(shield=True):
                try:
                    # Whoever is about to call comes along.
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                finally:
                    taken = self._draw()
                self._wake()
                if taken:
                    await self._go(taken)
        finally:
            self._free += 1

    def _draw(self) -> list[_Waiting[Piece, Outcome]]:
        share = -(-len(self._waiting) // (self._free + self._drawing))
        self._drawing -= 1
        taken = [self._waiting.popleft() for _ in range(share)]
        for one in taken:
            one.taken = True
        return taken

    async def _go(self, taken: list[_Waiting[Piece, Outcome]]) -> None:
        pieces = [one.piece for one in taken]
        try:
            outcomes = await anyio.to_thread.run_sync(self._work, pieces, limiter=self._limiter)
        except Exception as error:
            outcomes = [error] * len(taken)
        for one, outcome in zip(taken, outcomes, strict=True):
            one.outcome = outcome
            one.woken.set()

    def _wake(self) -> None:
        """Have the first of those that wait lead where a thread is free."""
        if self._free and self._waiting:
            self._waiting[0].woken.set()
