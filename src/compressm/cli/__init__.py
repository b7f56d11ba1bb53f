"""The command line: ``compressm COMMAND --help`` explains every option with its default."""

from compressm.cli.main import main

__all__ = ["main"]
