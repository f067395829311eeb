"""What mcpkeep knows of the Model Context Protocol: its eras, methods and what each method permits.

Revisions 2024-11-05 to 2025-11-25 are *legacy* (a session opened by `initialize`); 2026-07-28 is *modern*
(stateless: each request carries its protocol version and the client's capabilities in `_meta`).
"""

import enum

import msgspec

__all__ = [
    "CLIENT_CAPABILITIES",
    "LIST_KINDS",
    "LOG_LEVEL",
    "LOG_LEVELS",
    "LOSS",
    "PROTOCOL_VERSION",
    "SUBSCRIPTION_ID",
    "Era",
    "ListKind",
    "Loss",
]

PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""RFC 5424's, least severe first."""


class Era(enum.Enum):
    """How the client talks; unknown until its first request that tells."""

    UNKNOWN = "unknown"
    LEGACY = "legacy"
    MODERN = "modern"


class Loss(enum.Enum):
    """What becomes of a request that a child had taken when it died."""

    RETRY = "retry"
    """Sent once more to the next child: reading, or setting what is already remembered."""
    RESEND = "resend"
    """Sent to every next child until answered: what opens the session, a standing subscription."""
    CALL = "call"
    """A tool call: retried only where its annotations permit it."""
    ERROR = "error"
    """Answered with an error: it may have had effects, or belongs to the dead child alone."""


LOSS = {
    "initialize": Loss.RESEND,
    "server/discover": Loss.RESEND,
    "subscriptions/listen": Loss.RESEND,
    "tools/list": Loss.RETRY,
    "prompts/list": Loss.RETRY,
    "prompts/get": Loss.RETRY,
    "resources/list": Loss.RETRY,
    "resources/templates/list": Loss.RETRY,
    "resources/read": Loss.RETRY,
    "resources/subscribe": Loss.RETRY,
    "resources/unsubscribe": Loss.RETRY,
    "completion/complete": Loss.RETRY,
    "logging/setLevel": Loss.RETRY,
    "tasks/get": Loss.RETRY,
    "tools/call": Loss.CALL,
}
"""What becomes of each method; one that is not listed may have had effects, so it gets the error."""


class ListKind(msgspec.Struct, frozen=True):
    """One of the lists a server offers."""

    method: str
    member: str
    """The member of the result that holds the items."""
    capability: str
    changed: str
    """The notification that says this list changed."""
    filter: str
    """The member of a `subscriptions/listen` filter that asks for that notification."""


LIST_KINDS = {
    kind.method: kind
    for kind in (
        ListKind("tools/list", "tools", "tools", "notifications/tools/list_changed", "toolsListChanged"),
        ListKind(
            "prompts/list", "prompts", "prompts", "notifications/prompts/list_changed", "promptsListChanged"
        ),
        ListKind(
            "resources/list",
            "resources",
            "resources",
            "notifications/resources/list_changed",
            "resourcesListChanged",
        ),
        ListKind(
            "resources/templates/list",
            "resourceTemplates",
            "resources",
            "notifications/resources/list_changed",
            "resourcesListChanged",
        ),
    )
}
