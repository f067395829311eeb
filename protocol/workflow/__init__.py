"""Workflows: definitions, gates and evidence, sessions and their snapshots, and the tool `pos_workflow`."""
