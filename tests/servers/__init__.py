"""Real MCP servers for tests and benchmarks; README.md beside this file lists their flags and tools."""

import sys
from pathlib import Path

__all__ = ["FAST", "SDK", "fast_command", "sdk_command"]

FAST = Path(__file__).with_name("fast.py")
SDK = Path(__file__).with_name("sdk.py")


def fast_command(*flags: str) -> list[str]:
    """The command line of the fast server; an interpreter without site packages starts in half the time."""
    return [sys.executable, "-I", "-S", str(FAST), *flags]


def sdk_command(*flags: str) -> list[str]:
    """The command line of the server that is written with the official SDK."""
    return [sys.executable, "-I", str(SDK), *flags]
