"""How a part of an upgrade refuses or fails: the fact, and what to do."""

from collections.abc import Mapping

from mcpkeep.protocol.errors import McpkeepError

__all__ = ["UpgradeFailed"]


class UpgradeFailed(McpkeepError):
    """A part of an upgrade was refused or did not succeed; what it had begun is undone by its caller."""

    def __init__(self, text: str, *, remediation: str, details: Mapping[str, object] | None = None) -> None:
        """`text` says who erred and how, `remediation` what to do; `details` must be encodable as JSON."""
        super().__init__(text)
        self.remediation = remediation
        self.details = details or {}
