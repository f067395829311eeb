"""Where things are in an installation, as paths relative to `.praxis-os` (or the older `.agent-os`)."""

from typing import NamedTuple

from mcpkeep.protocol.bases import BASES

__all__ = [
    "BACKUPS",
    "BASES",
    "CODE_PARTS",
    "CONTENT_PARTS",
    "INDEX",
    "LOCK",
    "OWN",
    "PARTS",
    "RECORDS",
    "REQUIREMENTS",
    "SERVER_STATE",
    "SETTINGS",
    "USER_ONLY",
    "VENV",
    "Part",
]

OWN = ".mcpkeep"
BACKUPS = ".backups"
LOCK = ".upgrade-lock"
VENV = "venv"
INDEX = ".cache/vector_index"
SERVER_STATE = ".mcp_server_state.json"
SETTINGS = "config.json"
RECORDS = ("VERSION.txt", "UPDATE_LOG.txt", "INSTALLATION_SUMMARY.md")
"""Written by mcpkeep in phase 5; a rollback puts them back."""


class Part(NamedTuple):
    """A folder of the source, and the folder of the installation that it becomes."""

    source: str
    installed: str


CONTENT_PARTS = (
    Part("universal/standards", "standards/universal"),
    Part("universal/workflows", "workflows"),
    Part("universal/usage", "usage"),
)
CODE_PARTS = (Part("mcp_server", "mcp_server"), Part("scripts", "scripts"))
REQUIREMENTS = "mcp_server/requirements.txt"
PARTS = (*CONTENT_PARTS, *CODE_PARTS)
"""As in upstream's install script; universal/usage is in sources up to 2025-10 only."""

USER_ONLY = ("standards/development", "specs", "workspace")
"""Upstream never had anything there: never touched."""
