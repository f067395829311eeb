"""A question: a message that carries, for the type checker only, the type of its answer."""

from typing import Generic, TypeVar

import msgspec

__all__ = ["Question"]

Answer = TypeVar("Answer", covariant=True)


class Question(msgspec.Struct, Generic[Answer], frozen=True):
    """The base of every message an actor may be asked; `Question[Status]` is answered with a `Status`."""
