"""The errors that mcpkeep raises; each says who erred and what to do, with its facts as attributes."""

__all__ = ["ConfigError", "McpkeepError", "ProtocolError", "SpawnError"]


class McpkeepError(Exception):
    """The root of all errors that mcpkeep raises on purpose."""


class ConfigError(McpkeepError):
    """The user's configuration or command line is wrong; the text names the place and the remedy."""


class SpawnError(McpkeepError):
    """The child's command could not be executed."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"{command!r} cannot be started: {reason}")
        self.command = command
        self.reason = reason


class ProtocolError(McpkeepError):
    """A peer sent a line that is not a JSON-RPC message mcpkeep can carry."""
