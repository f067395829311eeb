"""A process for a child actor that needs none."""

import anyio

from mcpkeep.protocol.switch import Exit

__all__ = ["CLEAN", "KILLED", "FakeProcess", "FakeWire"]

KILLED = Exit(signal="SIGKILL")
CLEAN = Exit(code=0)


class FakeWire:
    accepted = 7
    queued = 0

    def write(self, data: bytes) -> bool:
        return True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close_writing(self) -> None: ...


class FakeProcess:
    """Ends when told to; a stubborn one only by SIGKILL."""

    def __init__(self, generation: int, *, stubborn: bool = False) -> None:
        self.pid = 1000 + generation
        self.wire = FakeWire()
        self._stubborn = stubborn
        self.frozen = False
        self._exit: Exit | None = None
        self._ended = anyio.Event()

    @property
    def exit(self) -> Exit | None:
        return self._exit

    def end(self, exit_: Exit = KILLED) -> None:
        self._exit = self._exit or exit_
        self._ended.set()

    async def wait(self) -> Exit:
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    async def stop(self, *, eof_grace: float | None, term_grace: float) -> Exit:
        if not self._stubborn:
            self.end(CLEAN)
        try:
            with anyio.move_on_after((eof_grace or 0) + term_grace):
                await self._ended.wait()
        finally:
            self.end()
        return await self.wait()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False

    def kill(self) -> None:
        self.end()
