"""Other relays that pip can install, as further paths of the same measurement."""

import subprocess
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

MCP_PROXY = """
import socket, subprocess, sys
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
proxy = [sys.executable, "-m", "mcp_proxy"]
quiet = subprocess.DEVNULL
command = [*proxy, "--port", port, "--", *sys.argv[1:]]
server = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
try:
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
    subprocess.run([*proxy, "--transport", "streamablehttp", f"http://127.0.0.1:{port}/mcp"])
finally:
    server.kill()
"""
"""It translates between stdio and HTTP, so two of them stand between a client and a server on stdio."""


def peers(pythons: Sequence[str]) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The command lines of the peers that these interpreters can run, and why each of the others is left out.

    Interpreters of their own, because peers want other versions of the SDK than the tests do.
    """
    scripts = {"fastmcp": ("fastmcp.server", FASTMCP), "mcp-proxy": ("mcp_proxy.proxy_server", MCP_PROXY)}
    found: dict[str, Sequence[str]] = {}
    reasons: list[str] = []
    for name, (module, script) in scripts.items():
        python = next((python for python in pythons if can_import(python, module)), None)
        if python is None:
            reasons.append(f"{name} is left out: {module} cannot be imported by {' or '.join(pythons)}")
        else:
            found[name] = [python, "-c", script, *fast_command()]
    return found, reasons


def can_import(python: str, module: str) -> bool:
    try:
        done = subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL)
    except OSError as error:
        print(f"{python!r} cannot be run: {error.strerror}", file=sys.stderr)
        return False
    return done.returncode == 0
