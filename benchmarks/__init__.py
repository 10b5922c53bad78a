"""Measurements on this machine: `python -m benchmarks --help`."""
