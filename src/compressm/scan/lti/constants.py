"""The cost model's seconds per count of work: shipped, or measured on this machine."""

import json
from pathlib import Path

import torch

from compressm.scan.runtime import cache_directory

Constants = dict[str, list[float]]

SHIPPED: Constants = {
    "scan/training": [0.00089, 1.92e-11, 3.99e-09, 1.29e-09, 0, 4.12e-08],
    "scan/inference": [0.000336, 2.88e-11, 4.1e-10, 3.37e-10, 0, 6.93e-09],
    "few_channels/training": [0.000583, 5.04e-10, 1.32e-08, 1.25e-09, 2.73e-08, 3.21e-07],
    "few_channels/inference": [0.000236, 6.51e-10, 3.35e-09, 3.81e-10, 8.76e-09, 2.01e-07],
    "convolution/training": [0.00219, 6.34e-09, 1.45e-08, 3.59e-10, 4.06e-10, 0, 6.48e-09],
    "convolution/inference": [0.000864, 2.83e-09, 3.68e-09, 6.85e-11, 4.68e-11, 0, 7.45e-09],
}
"""Seconds on one thread of an Intel Xeon with AMX, float32, as :func:`compressm.scan.calibrate` found."""

_current: Constants | None = None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def current() -> Constants:
    """This machine's constants if they have been measured, else the shipped ones. Read once per process."""
    global _current
    if _current is None:
        _current = load(file())
    return _current


def file() -> Path:
    """Where this machine's constants are kept; the number changes with what the counts mean."""
    return cache_directory() / "lti_scan-2.json"


def load(path: Path) -> Constants:
    """Constants from a file; the shipped ones if there is none.

    Raises:
        ValueError: the file does not hold constants of this version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return SHIPPED
    try:
        found = json.loads(text)
        constants = {name: [float(value) for value in found[name]] for name in SHIPPED}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold constants of the cost model ({error}); delete it") from error
    if any(len(constants[name]) != len(SHIPPED[name]) for name in SHIPPED):
        raise ValueError(f"{path} holds constants of another version's cost model; delete it")
    return constants


def use(constants: Constants, path: Path | None) -> None:
    """Take these constants from now on, and keep them in a file for later processes."""
    global _current
    _current = constants
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(constants, indent=2), encoding="utf-8")
        part.replace(path)
