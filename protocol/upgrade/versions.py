"""Versions as people name them, compared."""

import re

__all__ = ["is_older"]

_NUMBERS = re.compile(r"\d+(?:\.\d+)+")


def is_older(version: str, than: str) -> bool:
    """Whether it is, by the numbers in them such as 1.2.0; False where one has none."""
    found, other = _NUMBERS.search(version), _NUMBERS.search(than)
    if found is None or other is None:
        return False
    return [int(n) for n in found[0].split(".")] < [int(n) for n in other[0].split(".")]
