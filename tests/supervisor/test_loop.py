"""The loop's fast lane polls busily while messages follow one another at once, and blocks otherwise."""

import os
import select
from collections.abc import Generator
from contextlib import closing, contextmanager
from itertools import takewhile

import pytest

from mcpkeep.supervisor import loop as loop_module
from mcpkeep.supervisor.loop import HotLoop

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has epoll")


class Watched:
    """An epoll that writes down how long it was to wait each time."""

    def __init__(self, epoll: select.epoll) -> None:
        self.epoll = epoll
        self.waits: list[float] = []

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        self.waits.append(timeout)
        return self.epoll.poll(timeout, maxevents)

    def __getattr__(self, name: str) -> object:
        return getattr(self.epoll, name)


@contextmanager
def echoing(count: int, pause: float) -> Generator[tuple[HotLoop, Watched]]:
    """A loop that sends itself so many bytes, each so many seconds after the one before was read."""
    watched = Watched(select.epoll())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "epoll", lambda: watched)
        loop = HotLoop()
    read, write = os.pipe()
    left = count

    def send() -> None:
        os.write(write, b"x")

    def received() -> None:
        nonlocal left
        os.read(read, 1)
        left -= 1
        if not left:
            loop.stop()
            loop.call_soon(lambda: None)
        elif pause:
            loop.call_later(pause, send)
        else:
            send()

    with closing(loop):
        loop.add_hot_reader(read, received)
        loop.call_soon(send)
        yield loop, watched
        loop.remove_hot_reader(read)
    os.close(read)
    os.close(write)


def test_messages_that_follow_at_once_are_found_without_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_BUSY", 60.0)
    with echoing(100, 0) as (loop, watched):
        loop.run_forever()
    blocking = [wait for wait in watched.waits if wait != 0]
    assert len(blocking) <= 2 and len(watched.waits) >= 100


def test_where_many_calls_are_under_way_each_message_is_waited_for() -> None:
    with echoing(100, 0) as (loop, watched):
        loop.poll_busily_while(lambda: False)
        loop.run_forever()
    assert len([wait for wait in watched.waits if wait != 0]) >= 99


def test_messages_with_pauses_between_them_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_BUSY", 1e-9)
    with echoing(20, 0.001) as (loop, watched):
        loop.run_forever()
    assert len([wait for wait in watched.waits if wait != 0]) >= 20


def test_busy_polling_ends_soon_after_the_last_message() -> None:
    with echoing(3, 0) as (loop, watched):
        loop.run_forever()
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
    looks_at_the_end = list(takewhile(lambda wait: wait == 0, reversed(watched.waits)))
    assert len(looks_at_the_end) <= 3
