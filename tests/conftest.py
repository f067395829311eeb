"""For all tests: nothing depends on the machine's speed, and mcpkeep's bytecode is there."""

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
