"""Where a task may look for its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the user allowed.

    Attributes:
        data_dir: Folder to read from; None means the cache, then the hub.
        download: Whether the hub may be asked.
        progress: Whether progress is shown on a terminal.
    """

    data_dir: Path | None = None
    download: bool = True
    progress: bool = True
