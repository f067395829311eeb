"""`mcpkeep run` up to its first child: that is spawned before anything slow is imported."""

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from mcpkeep.protocol.errors import SpawnError
from mcpkeep.supervisor.orphans import Watcher
from mcpkeep.supervisor.process import Spawned, spawn_child

if TYPE_CHECKING:
    from mcpkeep.supervisor.options import RunOptions

__all__ = ["run"]


def run(options: "RunOptions") -> int:
    """Serve the client on stdin and stdout until it ends; the exit code.

    Nothing but JSON-RPC goes to stdout from here on, whoever prints.
    """
    sys.stdout = sys.stderr
    run_id = os.urandom(16).hex()
    first: Spawned | None = None
    with suppress(SpawnError):  # the child actor meets it again, and tells the client
        first = spawn_child(
            options.command, cwd=options.cwd, env={**os.environ, **options.env}, run_id=run_id, generation=1
        )
    watcher = Watcher(run_id)
    from mcpkeep.supervisor.tree import serve

    try:
        return serve(options, run_id, first)
    finally:
        watcher.close()
