"""Git's object ids of file contents."""

import hashlib

from mcpkeep.protocol.upgrade.line_endings import normalised

__all__ = ["blob_id", "is_blob"]

_SHA256_DIGITS = 64


def blob_id(data: bytes, *, like: str) -> str:
    """The id that git gives these bytes, or this link's target, in a repository that has the id `like`."""
    digest = hashlib.sha256() if len(like) == _SHA256_DIGITS else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()


def is_blob(data: bytes, oid: str) -> bool:
    """Whether these bytes are the object, as they are or with LF for CRLF."""
    if blob_id(data, like=oid) == oid:
        return True
    text = normalised(data)
    return text != data and blob_id(text, like=oid) == oid
