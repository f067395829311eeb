"""For all tests: no limit on speed, mcpkeep's bytecode, and which child processes the coverage counts."""

from collections.abc import Generator

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


@pytest.fixture(autouse=True, scope="module")
def _children_count_where_it_tells(request: pytest.FixtureRequest) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] not in COUNTED:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
