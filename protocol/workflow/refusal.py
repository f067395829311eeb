"""Why a workflow call is refused, in the words of the tool's `error_type`."""

from typing import ClassVar

from mcpkeep.protocol.errors import McpkeepError

__all__ = [
    "ClaimRefused",
    "EvidenceRefused",
    "InvalidArgument",
    "NotFound",
    "Refusal",
    "StateConflict",
    "StorageFailed",
]


class Refusal(McpkeepError):
    """A call that changed nothing; `error_type` and `remediation` go into the answer as they are."""

    error_type: ClassVar[str] = "RuntimeError"

    def __init__(self, text: str, remediation: str, **more: object) -> None:
        """`more` are further members of the answer."""
        super().__init__(text)
        self.remediation = remediation
        self.more = more


class InvalidArgument(Refusal):
    """An argument is missing, unknown or malformed."""

    error_type = "ValueError"


class NotFound(Refusal):
    """There is no such workflow, session, phase or task."""

    error_type = "NotFoundError"


class EvidenceRefused(Refusal):
    """The evidence did not pass the phase's gate."""

    error_type = "ValidationError"


class ClaimRefused(EvidenceRefused):
    """What was measured would pass, and what was claimed beside it contradicts that."""


class StateConflict(Refusal):
    """The session's state does not allow it, another call changed it first, or another process writes."""

    error_type = "StateError"


class StorageFailed(Refusal):
    """The change could not be made durable; memory stands as it was."""

    error_type = "StorageError"
