"""The relay between its wires: bytes in, one synchronous step of `protocol.relay`, bytes out.

No frame crosses an inbox, and no task is needed: this much serves a client before the actors are there, whose
imports would delay its first answer. Reading from one side stops while the other does not take what it is
sent, so a slow reader slows the writer down instead of filling memory.
"""

import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

from mcpkeep.actors.interfaces import Wire
from mcpkeep.protocol.errors import ProtocolError
from mcpkeep.protocol.relay.framing import Frame, LineSplitter
from mcpkeep.protocol.relay.head import read_head
from mcpkeep.protocol.relay.output import Logged, OwnAnswered, RelayEffect, ToolCancelled
from mcpkeep.protocol.relay.relay import Relay
from mcpkeep.protocol.relay.tools import ToolCalled
from mcpkeep.protocol.switch import ChildAttached, ChildExited, RelayOrder, RelayReport

__all__ = ["BACKLOG", "FLOODED", "HELD_LIMIT", "HIGH_WATER", "Attendant", "RelayWires"]

HIGH_WATER = 1024 * 1024
"""Bytes queued for one peer above which the other side is not read: what one pipe holds at most."""

FLOODED = 4 * HIGH_WATER
"""Bytes queued for the client above which it is not read either: sooner, and the end of a client that only
stopped reading would not be seen."""

BACKLOG = 8 * HIGH_WATER
"""Bytes queued for one child above which the client is not read. More than for the client: while a wedged
server takes nothing, the client must still get through to our own tools, `restart` above all."""

HELD_LIMIT = 64 * 1024 * 1024
"""Bytes of requests held for a child that is not up, above which the client is not read."""


class _Peer:
    """One child's wire and its unfinished line."""

    def __init__(self, wire: Wire, limit: int) -> None:
        self.wire = wire
        self.lines = LineSplitter(limit)
        self.early: list[Frame] | None = []
        """What it wrote before the relay was told of it; None from then on."""
        self.early_size = 0


Work: TypeAlias = RelayReport | ToolCalled | ToolCancelled | OwnAnswered
"""What the relay wants done that is neither sent nor logged."""


class Attendant(Protocol):
    """Does what takes time: tells the child actor, runs our tools, keeps deadlines. No method blocks."""

    def perform(self, work: Work) -> None: ...

    def suspect(self, generation: int, what: str) -> None:
        """A child closed a pipe, and should soon end."""
        ...

    def client_gone(self) -> None:
        """The client has ended."""
        ...

    def rearm(self) -> None:
        """What is due is due sooner than it was, or not at all."""
        ...


class RelayWires:
    """Drives a Relay. All methods are synchronous, and are called in the event loop's thread."""

    def __init__(
        self,
        relay: Relay,
        *,
        log: Callable[[Logged], None],
        clock: Callable[[], float] = time.monotonic,
        max_message: int = 10 * 1024 * 1024,
        max_request: int = 64 * 1024 * 1024,
    ) -> None:
        """`max_message` bounds a line of a child, `max_request` one of the client, both in bytes."""
        self.relay = relay
        self.clock = clock
        self.armed: float | None = None
        """When the attendant is to have the relay do what is due, by the clock."""
        self._out = relay.output
        self._log = log
        self._max_message = max_message
        self._client: Wire | None = None
        self._client_lines = LineSplitter(max_request)
        self._peers: dict[int, _Peer] = {}
        self._paused_client = False
        self._paused_children = False
        self._attendant: Attendant | None = None
        self._unattended: list[Callable[[Attendant], None]] = []

    def attend(self, attendant: Attendant) -> None:
        """Let it do what is left to do so far, and all that follows; to be called once."""
        self._attendant = attendant
        for task in self._unattended:
            task(attendant)
        self._unattended.clear()

    def has(self, generation: int) -> bool:
        """Whether the child's wire is connected, and its end not told."""
        return generation in self._peers

    # The client's side

    def connect_client(self, wire: Wire) -> None:
        """This is the client's wire; to be called once, before anything is read from it."""
        self._client = wire

    def client_data(self, data: bytes) -> None:
        frames, lane = self._client_lines.feed(data), self.relay.lane
        if len(frames) == 1:
            if (head := lane.plain_call(frame := frames[0])) is not None and isinstance(frame, bytes):
                assert lane.link is not None  # it has let it pass
                # Written first: the child need not wait for the rest.
                keeps_up = self._peers[lane.link.generation].wire.write(frame)
                lane.note_call(frame, head, self.clock())
                if not keeps_up or self.armed is None:
                    self.flush()
                    self._balance()
                return
            now = self.clock()
        elif passed := lane.calls(frames, now := self.clock()):
            assert lane.link is not None  # it has let them pass
            wire = self._peers[lane.link.generation].wire
            keeps_up = wire.write(passed[0] if len(passed) == 1 else b"".join(passed))
            if not keeps_up or self.armed is None:
                self.flush()
                self._balance()
            if len(passed) == len(frames):
                return
            frames = frames[len(passed) :]
        self.relay.from_client(frames, now)
        self.flush()

    def client_eof(self) -> None:
        self.relay.from_client(self._client_lines.end(), self.clock())
        self.flush()
        self._attended(lambda attendant: attendant.client_gone())

    def client_broken(self) -> None:
        self._attended(lambda attendant: attendant.client_gone())

    def client_writable(self) -> None:
        self._balance()

    # The children's side

    def connect(self, generation: int, wire: Wire) -> None:
        self._peers[generation] = _Peer(wire, self._max_message)
        if self._paused_children:
            wire.pause_reading()

    def child_data(self, generation: int, data: bytes) -> None:
        peer = self._peers.get(generation)
        if peer is None:
            return
        frames = peer.lines.feed(data)
        if peer.early is not None:
            peer.early += frames
            peer.early_size += len(data)
            if peer.early_size > HIGH_WATER:
                peer.wire.pause_reading()
            return
        lane, client = self.relay.lane, self._client
        if len(frames) == 1:
            call = lane.plain_answer(generation, frame := frames[0])
            if call is not None and client is not None and isinstance(frame, bytes):
                keeps_up = client.write(frame)
                lane.note_answer(call, self.clock())
                if not keeps_up:
                    self._balance()
                return
            now = self.clock()
        elif (passed := lane.answers(generation, frames, now := self.clock())) and client is not None:
            if not client.write(passed[0] if len(passed) == 1 else b"".join(passed)):
                self._balance()
            if len(passed) == len(frames):
                return
            frames = frames[len(passed) :]
        self.relay.from_child(generation, frames, now)
        self.flush()
        if self.armed is not None and not self.relay.calls.table:
            self._rearm()  # now, while awake, or an idle process would wake up for nothing

    def child_eof(self, generation: int) -> None:
        self._suspect(generation, "it closed its stdout")

    def child_broken(self, generation: int) -> None:
        self._suspect(generation, "it closed its stdin")

    def child_writable(self, generation: int) -> None:
        self._balance()

    # Orders

    def order(self, order: RelayOrder) -> None:
        """Take an order of the child actor, and send what follows. Attached twice is attached once."""
        now = self.clock()
        early: list[Frame] = []
        match order:
            case ChildExited(generation) if (peer := self._peers.pop(generation, None)) is not None:
                self.relay.from_child(generation, self._whole(peer.lines.end()), now)
            case ChildAttached(generation) if (peer := self._peers.get(generation)) is not None:
                if peer.early is None:  # attached before the child actor was there
                    return
                early, peer.early = peer.early, None
                if peer.early_size > HIGH_WATER and not self._paused_children:
                    peer.wire.resume_reading()
            case _:
                pass
        self.relay.order(order, now)
        if isinstance(order, ChildAttached):
            self.relay.from_child(order.generation, early, now)
        self.flush()
        self._balance()

    def _whole(self, frames: list[Frame]) -> list[Frame]:
        """A dead child's last line, if it is a message that lacks but its newline; half of one is nothing."""
        whole: list[Frame] = []
        for frame in frames:
            if not isinstance(frame, bytes):
                continue
            try:
                read_head(frame)
            except ProtocolError:
                self._log(Logged("warning", f"the server died within a line: {frame[:200]!r}"))
            else:
                whole.append(frame)
        return whole

    def notice(self, level: str, text: str) -> None:
        """Tell the client through its log, where it listens."""
        self.relay.notice(level, text)
        self.flush()

    def early_notice(self, level: str, text: str) -> None:
        """Tell the client so, or the one that is yet to come."""
        self.relay.early_notice(level, text)
        self.flush()

    def flush(self) -> None:
        """Send and do all that the relay wants."""
        out, keeps_up = self._out, True
        if out.client:
            data = out.client[0] if len(out.client) == 1 else b"".join(out.client)
            out.client.clear()
            if self._client is not None:
                keeps_up = self._client.write(data)
        if out.child:
            for generation, frames in out.child.items():
                if (peer := self._peers.get(generation)) is not None:
                    keeps_up &= peer.wire.write(frames[0] if len(frames) == 1 else b"".join(frames))
            out.child.clear()
        if out.effects:
            effects, out.effects = out.effects, []
            for effect in effects:
                self._perform(effect)
        if self.armed is None or self.relay.calls.held_bytes:
            self._rearm()
            keeps_up &= self.relay.calls.held_bytes <= HELD_LIMIT
        if not keeps_up or self._paused_client:
            self._balance()

    def _rearm(self) -> None:
        """Have the attendant wake up sooner, or not at all, if the relay's deadline has moved so."""
        due = self.relay.deadline()
        if due != self.armed and (due is None or self.armed is None or due < self.armed):
            self.armed = due
            self._attended(lambda attendant: attendant.rearm())

    def _balance(self) -> None:
        """Read from each side only while the other takes what it is sent."""
        client_slow = self._client is not None and self._client.queued > HIGH_WATER
        serving = self._peers.get(self.relay.serving)  # one that drains is sent next to nothing any more
        child_slow = serving is not None and serving.wire.queued > BACKLOG
        if client_slow != self._paused_children:
            self._paused_children = client_slow
            for peer in self._peers.values():
                peer.wire.pause_reading() if client_slow else peer.wire.resume_reading()
        flooded = self._client is not None and self._client.queued > FLOODED
        pause = flooded or child_slow or self.relay.calls.held_bytes > HELD_LIMIT
        if self._client is not None and pause != self._paused_client:
            self._paused_client = pause
            self._client.pause_reading() if pause else self._client.resume_reading()

    def _perform(self, effect: RelayEffect) -> None:
        if isinstance(effect, Logged):
            self._log(effect)
        else:
            self._attended(lambda attendant: attendant.perform(effect))

    def _suspect(self, generation: int, what: str) -> None:
        if generation in self._peers:
            self._attended(lambda attendant: attendant.suspect(generation, what))

    def _attended(self, task: Callable[[Attendant], None]) -> None:
        if self._attendant is None:
            self._unattended.append(task)
        else:
            task(self._attendant)
