"""The cost model's seconds per count of work: shipped, or measured on this machine."""

import json
from pathlib import Path

import torch

from compressm.scan.runtime import cache_directory

Constants = dict[str, list[float]]

SHIPPED: Constants = {
    "scan/training": [0.001, 4.1e-11, 4.39e-09, 0, 8.86e-08, 6.55e-08],
    "scan/inference": [0.000172, 2.91e-11, 9.4e-10, 6.95e-11, 2.86e-08, 2.23e-08],
    "convolution/training": [0.00238, 9.36e-09, 2.07e-08, 3.07e-10, 5.09e-10, 0, 9.27e-09],
    "convolution/inference": [0.000901, 4.02e-09, 4.48e-09, 0, 6.05e-11, 0, 9.34e-09],
}
"""Seconds on one thread of an x86 server core with AVX-512 at about 2.5 GHz, float32."""

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
