"""The cost model's seconds per count of work: shipped, or measured on this machine."""

import json
from pathlib import Path

import torch

from compressm.scan.runtime import cache_directory

Constants = dict[str, list[float]]

SHIPPED: Constants = {
    "scan/training": [0.000966, 2.76e-11, 1.01e-08, 6.72e-10, 0, 5.16e-08],
    "scan/inference": [0.00035, 6.61e-11, 0, 4.8e-10, 0, 7.99e-09],
    "few_channels/training": [0.000534, 6.82e-10, 1.92e-08, 8.63e-10, 8.53e-08, 3.82e-07],
    "few_channels/inference": [0.000251, 6.99e-10, 4.39e-09, 4.89e-10, 2.72e-08, 1.63e-07],
    "convolution/training": [0.00215, 7.66e-09, 2.89e-08, 1.27e-09, 5.51e-10, 0, 1.1e-08],
    "convolution/inference": [0.00082, 5.16e-09, 3.81e-09, 1.55e-10, 8.53e-11, 7.55e-11, 6.56e-09],
}
"""Seconds on one thread of an x86 server core with AVX-512 at about 3.2 GHz, float32."""

_current: Constants | None = None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def current() -> Constants:
    """This machine's constants if they have been measured, else the shipped ones. Read once per process."""
    global _current
    if _current is None:
        _current = load(file())
    return _current


def file() -> Path:
    """Where this machine's constants are kept."""
    return cache_directory() / "lti_scan.json"


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
