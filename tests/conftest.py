"""For all tests: no limit on speed, mcpkeep's bytecode, and where the coverage counts."""

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import pytest
from hypothesis import HealthCheck, settings

from tests.bytecode import compile_mcpkeep

settings.register_profile(
    "any speed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any speed")


def pytest_configure(config: pytest.Config) -> None:
    """Once, and not in each worker."""
    if not hasattr(config, "workerinput"):
        compile_mcpkeep()


COUNTED = (
    *("test_run", "test_run_replace", "test_workflow_run", "test_terminal", "test_demo", "test_windows"),
    *("test_commands", "test_commands_beside", "test_upgrade_tool", "test_probation_live"),
)
"""Modules whose tests have their child processes count for the coverage, for what runs only there; to begin
takes each of them a fifth of a second, more than mcpkeep's own start.
"""


UNCOUNTED = ("test_change_powerloss", "test_kills", "test_backup_faults", "test_change_faults")
"""Modules that run some thousand times what others run too; counted, they would take twice as long."""


@pytest.fixture(autouse=True, scope="module")
def _coverage_counts_where_it_tells(request: pytest.FixtureRequest) -> Generator[None]:
    module = request.module.__name__.rpartition(".")[2]
    with pytest.MonkeyPatch.context() as patch:
        if module not in COUNTED:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        with untraced() if module in UNCOUNTED else nullcontext():
            yield


@contextmanager
def untraced() -> Generator[None]:
    """Neither this thread nor those that begin meanwhile call the coverage's tracer."""
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        sys.settrace(here)
        threading.settrace(in_threads)
