"""How a part of an upgrade refuses or fails: the fact, and what to do."""

from collections.abc import Mapping

from mcpkeep.protocol.errors import McpkeepError
from mcpkeep.protocol.switch import Exit

__all__ = ["Interrupted", "ServerEnded", "UpgradeFailed"]


class UpgradeFailed(McpkeepError):
    """A part of an upgrade was refused or did not succeed; what it had begun is undone by its caller."""

    def __init__(self, text: str, *, remediation: str, details: Mapping[str, object] | None = None) -> None:
        """`text` says who erred and how, `remediation` what to do; `details` must be encodable as JSON."""
        super().__init__(text)
        self.remediation = remediation
        self.details = details or {}


class ServerEnded(UpgradeFailed):
    """A server that was tried went down, or never came up; `exit` is None where its process lives on."""

    def __init__(
        self, text: str, *, remediation: str, exit_: Exit | None, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(text, remediation=remediation, details=details)
        self.exit = exit_


class Interrupted(UpgradeFailed):
    """Whoever worked on it leaves; it goes on when it is asked again."""
