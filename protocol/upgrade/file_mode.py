"""Git's three file modes, and the permission bits that go with them."""

from mcpkeep.protocol.upgrade.plan import Mode

__all__ = ["EXECUTABLE", "LINK", "PLAIN", "file_mode", "merged_mode", "permission_bits"]

PLAIN: Mode = "100644"
EXECUTABLE: Mode = "100755"
LINK: Mode = "120000"


def file_mode(bits: int) -> Mode:
    """The mode of a file with these permission bits; as in git, the owner's bit decides."""
    return EXECUTABLE if bits & 0o100 else PLAIN


def permission_bits(mode: Mode, *, standing: int | None, folder: int) -> int:
    """Those of a file of this mode: as those of the file it replaces, or of its folder, but for execution."""
    bits = (standing if standing is not None else folder | 0o600) & 0o666
    return bits | (bits & 0o444) >> 2 if mode == EXECUTABLE else bits


def merged_mode(base: Mode | None, ours: Mode, theirs: Mode) -> Mode:
    """Of a text that both sides changed: theirs where they changed it, else ours; never a link."""
    merged = theirs if ours in (base, LINK) else ours
    return PLAIN if merged == LINK else merged
