"""`mcpkeep run` once its first child runs: the relay serves the client at once, and the task tree joins it.

Whoever waits for the answer to `initialize` waits for imports most of all. So the front begins alone, while a
thread imports the tree.
"""

import asyncio
import importlib
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress

from mcpkeep.supervisor.front import Front
from mcpkeep.supervisor.log import start_logging
from mcpkeep.supervisor.loop import new_loop
from mcpkeep.supervisor.options import RunOptions
from mcpkeep.supervisor.process import Spawned

__all__ = ["serve"]

# The backend, which anyio imports at its first use, takes as long as all that is ours.
_TREE = ("anyio._backends._asyncio", "mcpkeep.supervisor.tree")

_log = logging.getLogger("mcpkeep")


def serve(options: RunOptions, run_id: str, first: Spawned | None) -> int:
    """Serve until the client ends or a signal says so; the exit code."""
    log = options.settings.log
    logs = start_logging(
        level=log.level, format=log.format, file=options.log_file, max_bytes=log.max_bytes, keep=log.keep
    )
    for warning in options.warnings:
        _log.warning(warning)
    with suppress(ImportError):  # as anyio.run does: so anyio knows the loop outside tasks too
        from sniffio import current_async_library_cvar

        current_async_library_cvar.set("asyncio")
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(options, run_id, first))
    except Exception:
        _log.critical("mcpkeep ends by a bug of its own", exc_info=True)
        return 1
    finally:
        logs.close()


async def _serve(options: RunOptions, run_id: str, first: Spawned | None) -> int:
    front = Front(options, run_id, first)
    await _import_beside(_TREE if options.base is None else (*_TREE, "mcpkeep.supervisor.upgrade.wiring"))
    from mcpkeep.supervisor.tree import serve_tree

    return await serve_tree(options, run_id, front)


async def _import_beside(modules: Sequence[str]) -> None:
    """Import them in a thread; what fails there fails again where it is needed."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        with suppress(Exception):
            for module in modules:
                importlib.import_module(module)
        with suppress(RuntimeError):  # a signal has ended the loop
            loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=run, name="imports", daemon=True).start()
    await done
