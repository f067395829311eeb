"""Measures the memory of process trees; psutil is imported at the first measurement."""

import anyio.to_thread

__all__ = ["TreeMeter", "tree_memory"]


class TreeMeter:
    """A `MemoryMeter` that measures in a worker thread."""

    async def held(self, pid: int) -> int | None:
        """The resident bytes of the process and all its descendants; None if there is no such process."""
        return await anyio.to_thread.run_sync(tree_memory, pid, abandon_on_cancel=True)


def tree_memory(pid: int) -> int | None:
    """The resident bytes of a process and all its descendants; None if there is no such process.

    Pages that several of them share count for each.
    """
    import psutil

    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return None
    held = 0
    for process in tree:
        try:
            held += process.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    return held
