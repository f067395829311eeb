"""mcpkeep's bytecode, as an installation has it."""

import compileall
import re
from pathlib import Path

__all__ = ["compile_mcpkeep"]

ROOT = Path(__file__).parents[1]
_SAMPLES = re.compile("sample_data")


def compile_mcpkeep() -> None:
    """Compile what was changed: with PYTHONDONTWRITEBYTECODE set, each started mcpkeep would do it anew."""
    for folder in ("protocol", "actors", "supervisor"):
        compileall.compile_dir(ROOT / folder, quiet=2, rx=_SAMPLES)
