"""The one error of this room that a user can meet without a bug in their code."""


class DataError(RuntimeError):
    """A data file is missing, damaged, or cannot be fetched; the message names the file and the remedy."""
