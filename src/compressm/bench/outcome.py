"""Everything that one call measured, and its file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compressm.bench.comparison import Comparison
from compressm.bench.grid import Choice
from compressm.bench.scaling import Sweep

FORMAT = 1
FILE = "bench.json"


@dataclass(kw_only=True)
class Outcome:
    """The figures of a call, in the order they were measured.

    Attributes:
        machine: From :func:`compressm.bench.machine.describe_machine`.
        method: Rounds, clock and what else says how it was measured.
        comparisons: Of the cases.
        sweeps: Of ``--scaling``.
        forms: Of ``--grid``: forms of the linear recurrence.
        chunks: Of ``--grid``: chunk sizes and kernels of linear attention and the delta rule.
        constants: Of ``--calibrate``: seconds per count of work of each form.
    """

    machine: dict[str, Any]
    method: dict[str, Any]
    comparisons: list[Comparison] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    forms: list[Choice] = field(default_factory=list)
    chunks: list[Choice] = field(default_factory=list)
    constants: dict[str, list[float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        choices = {
            name: [{**asdict(choice), "over_best": choice.over_best} for choice in found]
            for name, found in (("forms", self.forms), ("chunks", self.chunks))
        }
        return {
            "format": FORMAT,
            "machine": self.machine,
            "method": self.method,
            "cases": [comparison.to_dict() for comparison in self.comparisons],
            "scaling": [sweep.to_dict() for sweep in self.sweeps],
            **choices,
            "constants": self.constants,
        }

    def write(self, folder: Path) -> Path:
        """Write ``bench.json``, whole or not at all; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        part.replace(path)
        return path
