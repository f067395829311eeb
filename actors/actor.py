"""The actor: one task, one bounded inbox, one state; whoever uses it knows only `tell`, `ask` and `stop`.

Supervision is the task tree: `run` is started in somebody's task group, and an exception in it goes there.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Generic, TypeVar, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.question import Question

__all__ = ["Actor", "ActorError", "ActorStopped", "AskTimedOut", "Envelope", "InboxFull", "Reply"]

Message = TypeVar("Message")
Answer = TypeVar("Answer")


class ActorError(McpkeepError):
    """An actor did not take a message, or did not answer it."""

    def __init__(self, actor: str, text: str) -> None:
        super().__init__(f"actor {actor!r} {text}")
        self.actor = actor


class ActorStopped(ActorError):
    """It has left, or left before it answered; what was asked may or may not have been done."""

    def __init__(self, actor: str) -> None:
        super().__init__(actor, "has stopped; nothing it is sent is answered")


class AskTimedOut(ActorError):
    """It did not answer in time; what was asked may still be done."""

    def __init__(self, actor: str, within: float) -> None:
        super().__init__(actor, f"did not answer within {within:g} s; ask again, or allow more time")
        self.within = within


class InboxFull(ActorError):
    """It was told more than it can take; the message was not delivered."""

    def __init__(self, actor: str, capacity: int) -> None:
        super().__init__(actor, f"has {capacity} messages waiting and takes no more; tell it again later")
        self.capacity = capacity


class Reply(Generic[Answer]):
    """Where one question's answer goes: address and correlation in one. The first answer counts."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._answer: Answer | None = None
        self._error: ActorError | None = None

    @property
    def open(self) -> bool:
        """Whether nobody has answered yet, and somebody still waits."""
        return not self._done.is_set()

    def send(self, answer: Answer) -> None:
        """Answer; dropped if that was done, or the asker has given up."""
        if self.open:
            self._answer = answer
            self._done.set()

    def fail(self, error: ActorError) -> None:
        """Have the asker raise this instead."""
        if self.open:
            self._error = error
            self._done.set()

    async def wait(self) -> Answer:
        """Wait for the answer, for as long as it takes; a cancelled wait closes the reply."""
        try:
            await self._done.wait()
        finally:
            self._done.set()
        if self._error is not None:
            raise self._error
        return cast("Answer", self._answer)


class Envelope(Generic[Message]):
    """A message on its way, with where to answer it if it is a question."""

    __slots__ = ("message", "reply")

    def __init__(self, message: Message, reply: Reply[object] | None = None) -> None:
        self.message = message
        self.reply = reply

    def answer(self, answer: object) -> None:
        """Answer the asker; nothing if it was only told."""
        if self.reply is not None:
            self.reply.send(answer)


class Actor(ABC, Generic[Message]):
    """The base of all actors. A subclass gives `receive`; at need `begin`, `deadline`, `elapsed`, `leave`.

    `run` is called once. Messages may be sent before it. One message is received at a time, in the order of
    arrival. When the actor leaves, whether stopped, cancelled or by an error, everybody who waits for an
    answer gets ActorStopped, and everything told later is dropped.
    """

    def __init__(self, name: str, *, capacity: int = 256, leave_limit: float = 10.0) -> None:
        """Take at most `capacity` waiting messages, and at most `leave_limit` seconds for `leave`."""
        self.name = name
        self._capacity = capacity
        self._leave_limit = leave_limit
        self._send, self._inbox = anyio.create_memory_object_stream[Envelope[Message]](capacity)
        self._replies: set[Reply[object]] = set()
        self._running = False
        self._stopping = False
        self._idle: anyio.CancelScope | None = None
        self._tasks: TaskGroup | None = None
        self._left = anyio.Event()

    # For whoever uses it.

    def tell(self, message: Message) -> None:
        """Send without waiting. To an actor that has left, the message is dropped.

        Raises:
            InboxFull: the message was not delivered.
        """
        try:
            self._send.send_nowait(Envelope(message))
        except anyio.WouldBlock:
            raise InboxFull(self.name, self._capacity) from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def deliver(self, message: Message) -> None:
        """Send, and wait for room where the inbox is full. Dropped if the actor has left."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._send.send(Envelope(message))

    async def ask(self, question: Question[Answer], *, within: float) -> Answer:
        """Send a question that this actor answers, and wait for room and for the answer.

        Args:
            within: seconds for both together.

        Raises:
            AskTimedOut: no answer in time.
            ActorStopped: the actor has left, or leaves before it answers.
        """
        reply: Reply[Answer] = Reply()
        with anyio.move_on_after(within):
            try:
                await self._send.send(Envelope(cast("Message", question), cast("Reply[object]", reply)))
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                raise ActorStopped(self.name) from None
            return await reply.wait()
        raise AskTimedOut(self.name, within)

    def stop(self) -> None:
        """Have it leave after the message it is at, however full its inbox is. May be called again."""
        self._stopping = True
        if not self._running:
            self._close()
        elif self._idle is not None:
            self._idle.cancel()

    async def stopped(self) -> None:
        """Wait until it has left."""
        await self._left.wait()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Live: `begin`, report started, receive until stopped, `leave`. Raises what those raise.

        One that was stopped before reports started and returns.
        """
        self._running = True
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                if not self._stopping:
                    try:
                        await self.begin()
                        task_status.started()
                        while not self._stopping:
                            await self._turn()
                    finally:
                        with anyio.move_on_after(self._leave_limit, shield=True):
                            await self.leave()
                else:
                    task_status.started()
                tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self._close()

    # For the subclass.

    @property
    def tasks(self) -> TaskGroup:
        """Where it starts tasks of its own, while it runs; they are cancelled after `leave`."""
        assert self._tasks is not None, f"actor {self.name!r} does not run"
        return self._tasks

    async def begin(self) -> None:
        """Do what precedes the first message."""

    @abstractmethod
    async def receive(self, envelope: Envelope[Message]) -> None:
        """Handle one message. A question may be answered later: the envelope can be kept."""

    def deadline(self) -> float | None:
        """When `elapsed` is due, in `anyio.current_time()` seconds; looked at before each message."""
        return None

    async def elapsed(self) -> None:
        """Do what the deadline was for; called instead of waiting when it has passed."""

    async def leave(self) -> None:
        """Clean up; called once after `begin` was entered, shielded from cancellation, within the limit."""

    # Its own.

    async def _turn(self) -> None:
        due = self.deadline()
        if due is not None and due <= anyio.current_time():
            await self.elapsed()
            return
        envelope: Envelope[Message] | None = None
        with anyio.CancelScope(deadline=float("inf") if due is None else due) as self._idle:
            envelope = await self._inbox.receive()
        self._idle = None
        if envelope is None:
            return
        if envelope.reply is not None:
            self._replies = {reply for reply in self._replies if reply.open} | {envelope.reply}
        await self.receive(envelope)

    def _close(self) -> None:
        stopped = ActorStopped(self.name)
        for reply in self._replies:
            reply.fail(stopped)
        while True:
            try:
                envelope = self._inbox.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
                break
            if envelope.reply is not None:
                envelope.reply.fail(stopped)
        self._inbox.close()
        self._send.close()
        self._left.set()
