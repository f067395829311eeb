"""The names of an installation's folder: by themselves, since every start asks for them, and few for more."""

__all__ = ["BASES"]

BASES = (".praxis-os", ".agent-os")
"""Newest first."""
