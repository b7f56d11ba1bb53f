"""The version, in one place: the wheel's and the run folders'."""

__version__ = "0.1.0"
