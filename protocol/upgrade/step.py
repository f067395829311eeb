"""The steps by which the live tree changes: each is idempotent and undoable, and says all that it needs.

Paths are relative to the installation's folder, with `/`.
"""

import msgspec

__all__ = ["PointLink", "PutFile", "RenameInstallation", "Step", "SwapFolder", "TakeFile"]


class PutFile(msgspec.Struct, frozen=True, tag="put_file"):
    """`staged` becomes `path` by renames, and never leaves it absent; what stood there is kept at `kept`."""

    number: int
    """Names its temporary file, `.mcpkeep-<number>.tmp` in the target's own folder."""
    path: str
    staged: str
    kept: str


class TakeFile(msgspec.Struct, frozen=True, tag="take_file"):
    """`path` goes, and is kept at `kept`."""

    number: int
    path: str
    kept: str


class SwapFolder(msgspec.Struct, frozen=True, tag="swap_folder"):
    """The folder `staged` becomes `path`, and what stood there becomes `kept`; either may be absent."""

    path: str
    staged: str
    kept: str


class PointLink(msgspec.Struct, frozen=True, tag="point_link"):
    """The symbolic link `path` points at `target`, by atomic replacement; formerly at `former`, or absent."""

    path: str
    target: str
    former: str | None


class RenameInstallation(msgspec.Struct, frozen=True, tag="rename_installation"):
    """The installation's folder changes its name, beside it a link by the old one. Names, not paths."""

    old: str
    new: str


Step = PutFile | TakeFile | SwapFolder | PointLink | RenameInstallation
