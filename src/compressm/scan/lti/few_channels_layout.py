"""Sizes that the kernels for few channels and their callers share."""

STEPS = 64
"""Steps of a chunk: two blocks of states and rows of eight channels take under 30 KiB, and all stays in the
first-level cache."""
