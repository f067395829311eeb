"""Request states and task ids, each of which only the child that minted it can read."""

from mcpkeep.protocol.relay.head import Params, Result

__all__ = ["Bound"]

_LIMIT = 10_000
"""What is remembered of them; beyond, the oldest are forgotten and go to the serving child."""


class Bound:
    def __init__(self) -> None:
        self._generations: dict[str, int] = {}

    def note(self, result: Result, generation: int) -> None:
        """The client's next request about this belongs to the child of that generation."""
        token = result.request_state or (result.task.task_id if result.task is not None else None)
        if token is None:
            return
        self._generations.pop(token, None)
        self._generations[token] = generation
        if len(self._generations) > _LIMIT:
            del self._generations[next(iter(self._generations))]

    def generation(self, params: Params) -> int:
        """Whose state or task this request names; 0 where that is not known."""
        return self._generations.get(params.request_state or params.task_id or "", 0)
