"""Benchmarks of the relay against the bare connection and a blind pump: `python -m tests.benchmarks`."""
