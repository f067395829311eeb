"""Sizes as people read them."""

__all__ = ["show_size"]


def show_size(count: int) -> str:
    """Bytes in decimal units, such as `2.5 GB`, as disks are sold and the seeds write them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
