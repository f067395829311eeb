"""Other relays that pip can install, as further paths of the same measurement."""

import importlib.metadata
import sys
from collections.abc import Sequence

from tests.servers import fast_command

__all__ = ["peers"]

FASTMCP = """
import sys
from fastmcp.client.transports import StdioTransport
from fastmcp.server import create_proxy
create_proxy(StdioTransport(sys.argv[1], sys.argv[2:])).run(transport="stdio", show_banner=False)
"""


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def peers() -> tuple[dict[str, Sequence[str]], list[str]]:
    """The command lines of the peers that are installed, and for each of the others why it is left out."""
    found: dict[str, Sequence[str]] = {}
    reasons: list[str] = []
    if installed("fastmcp"):
        found["fastmcp"] = [sys.executable, "-c", FASTMCP, *fast_command()]
    else:
        reasons.append("fastmcp is not installed: pip install fastmcp")
    if installed("mcp-proxy"):
        server, *arguments = fast_command()
        found["mcp-proxy"] = [sys.executable, "-m", "mcp_proxy", server, "--", *arguments]
    else:
        reasons.append("mcp-proxy is not installed: pip install mcp-proxy")
    return found, reasons
