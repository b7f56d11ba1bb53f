"""What takes part in a comparison: an implementation that can make a step of a case."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from compressm.bench.cases import Case
from compressm.bench.timing import Step
from compressm.scan import compile_seconds

Arrays = dict[str, np.ndarray]
CaseT = TypeVar("CaseT", bound=Case)

TOLERANCE = 1e-3
"""Largest relative difference of outputs and gradients with which two implementations do the same."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to compute.

    Attributes:
        threads: PyTorch's threads on the CPU.
        device: ``cpu`` or ``cuda``.
        tf32: Matrix products in TF32 for everybody, the floor too, and JAX; in full float32 otherwise.
        bf16: Also ours under ``torch.autocast`` with bfloat16.
        compile: Also ours with ``torch.compile`` on every block.
        peers: Also the peers.
    """

    threads: int
    device: str = "cpu"
    tf32: bool = False
    bf16: bool = False
    compile: bool = False
    peers: bool = True


class Contender(ABC, Generic[CaseT]):
    """An implementation of a kind of case. The first of a case is ours in float32: what others are held to.

    Attributes:
        name: How tables call it.
        exact: Whether outputs must agree with ours to :data:`TOLERANCE` (not in bfloat16).
        compile_seconds: What :meth:`load` spent compiling, or loading what was compiled before.
    """

    name: str
    exact: bool = True
    compile_seconds: float = 0.0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def missing(self) -> str | None:
        """Why it cannot run here and how to get it; None if it can."""
        return None

    def load(self, case: CaseT) -> None:
        """Import and compile what a step needs, without keeping memory for its operands."""
        before = compile_seconds()
        self.step(case.small())()
        self.compile_seconds = compile_seconds() - before

    @abstractmethod
    def step(self, case: CaseT) -> Step:
        """Allocate the operands of a case; returns a training step on them."""

    def device_peak(self) -> int:
        """Bytes taken on a GPU at the peak."""
        return torch.cuda.max_memory_allocated()

    @abstractmethod
    def outputs(self, case: CaseT) -> Arrays:
        """Outputs and gradients by name, at parameters that are the same for all contenders of the case."""


class DisagreementError(ValueError):
    """Two implementations do not compute the same: their times are not comparable."""


def check_agreement(ours: Contender[Any], other: Contender[Any], case: Case) -> float:
    """Compare outputs and gradients on a short input; returns the largest relative difference.

    The difference of an array is the norm of the difference over the norm of ours.

    Raises:
        DisagreementError: If names, shapes or values differ, naming the array.
    """
    small = case.small()
    expected, found = ours.outputs(small), other.outputs(small)
    if expected.keys() != found.keys():
        raise DisagreementError(
            f"{case.name}: {other.name} gives {sorted(found)}, not {sorted(expected)}: no comparison"
        )
    largest = 0.0
    for name, array in expected.items():
        if array.shape != found[name].shape:
            raise DisagreementError(
                f"{case.name}: {name} of {other.name} has shape {found[name].shape}, not {array.shape}: "
                "no comparison"
            )
        difference = float(np.linalg.norm(found[name] - array) / max(float(np.linalg.norm(array)), 1e-12))
        if not difference <= TOLERANCE:
            raise DisagreementError(
                f"{case.name}: {name} of {other.name} differs from ours by {difference:.2g} (relative; "
                f"at most {TOLERANCE:g} is allowed): no comparison"
            )
        largest = max(largest, difference)
    return largest


def as_arrays(names: list[str], tensors: list[torch.Tensor]) -> Arrays:
    """Tensors as arrays on the CPU, by name."""
    return {name: tensor.detach().double().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
