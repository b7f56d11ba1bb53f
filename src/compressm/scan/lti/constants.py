"""The cost model's seconds per count of work: shipped, or measured on this machine."""

import json
from pathlib import Path

import torch

from compressm.scan.runtime import cache_directory

Constants = dict[str, list[float]]

SHIPPED: Constants = {
    "scan/training": [3.75e-4, 2.94e-11, 3.32e-9, 6.5e-10, 7.75e-8, 5.03e-9],
    "scan/inference": [7.64e-5, 3.05e-11, 7.66e-10, 3.86e-10, 1.84e-8, 1.06e-9],
    "convolution/training": [1.41e-3, 9.67e-9, 1.79e-8, 4.17e-10, 3.85e-10, 0.0, 1.16e-8],
    "convolution/inference": [3.86e-4, 4.3e-9, 3.33e-9, 3.22e-11, 5.96e-11, 5.2e-12, 5.73e-9],
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
