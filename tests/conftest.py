"""For all tests: nothing depends on the machine's speed, and mcpkeep's bytecode is there."""

import compileall
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

SAMPLES = re.compile("sample_data")

settings.register_profile(
    "any speed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any speed")


def pytest_configure(config: pytest.Config) -> None:
    """Compile once: with PYTHONDONTWRITEBYTECODE set, each started mcpkeep would compile what it imports."""
    if not hasattr(config, "workerinput"):
        for folder in ("protocol", "actors", "supervisor"):
            compileall.compile_dir(ROOT / folder, quiet=2, rx=SAMPLES)
