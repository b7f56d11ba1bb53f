"""Triton's kernels interpreted, as for the recurrences."""

import importlib.util
from pathlib import Path

_SCAN = Path(__file__).parents[1] / "scan" / "conftest.py"
_specification = importlib.util.spec_from_file_location("interpreted_kernels", _SCAN)
assert _specification is not None
assert _specification.loader is not None
_module = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_module)
interpreted = _module.interpreted
