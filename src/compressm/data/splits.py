"""Arrays of a task and the batches cut from them.

A split keeps its inputs in the most compact form (MNIST: one byte per pixel) and encodes one batch at a
time, so a data set costs little memory and may be a read-only memory map shared by several processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Never the training seed: every run of a task is validated on the same sequences.
VALIDATION_SEED = 2510
# The target of a step that does not count, of a task that asks at some steps alone; what PyTorch's losses
# leave out unless told otherwise.
IGNORE = -100
Array = npt.NDArray[Any]
Encoding = Callable[[Tensor], Tensor]


class Batch(NamedTuple):
    """What a model is trained on in one step; unpacks as ``inputs, targets, lengths``.

    Attributes:
        inputs: Real sequences, float32 ``(B, L, input_dim)``, for pairs of them ``(B, 2, L, input_dim)``;
            an encoding that keeps tokens gives int64 ``(B, L)``.
        targets: Classes, int64 ``(B,)``; symbols at every step, int64 ``(B, L)``, :data:`IGNORE` where none
            is asked for; or real values at every step, float32 ``(B, L, target_dim)``.
        lengths: Number of valid steps of each sequence, int64 ``(B,)``, for pairs ``(B, 2)``, or None if all
            ``L`` are valid.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on another device."""
        lengths = None if self.lengths is None else self.lengths.to(device, non_blocking=non_blocking)
        return Batch(
            self.inputs.to(device, non_blocking=non_blocking),
            self.targets.to(device, non_blocking=non_blocking),
            lengths,
        )


def as_real(stored: Tensor) -> Tensor:
    """Encode values as they are, in float32."""
    return stored.to(torch.float32)


def as_pixels(stored: Tensor) -> Tensor:
    """Encode bytes 0..255 as float32 in [0, 1]."""
    # A true division: multiplying by 1/255 rounds differently and would not give exactly value / 255.
    return stored.to(torch.float32).div_(255.0)


@dataclass(frozen=True, eq=False)
class Split:
    """One part (train, validation or test) of a data set.

    Attributes:
        inputs: Stored sequences ``(count, L, ...)``, or pairs ``(count, 2, L, ...)``, in any dtype ``encode``
            understands.
        targets: Integers ``(count,)`` or ``(count, L)``, or real values ``(count, L, target_dim)``.
        lengths: Number of valid steps ``(count,)``, for pairs ``(count, 2)``, each in 1..L, or None if all
            are.
        encode: Maps a tensor of stored sequences ``(B, L, ...)`` to what the model reads.
        pad_to: Batches end at their longest sequence, rounded up to a multiple of this; None keeps all L
            steps. Needs ``lengths`` and targets without a time axis.
    """

    inputs: Array
    targets: Array
    lengths: Array | None = None
    encode: Encoding = as_real
    pad_to: int | None = None

    def __post_init__(self) -> None:
        if self.inputs.ndim < 2:
            raise ValueError(f"inputs of a split must be (count, L, ...), got shape {self.inputs.shape}")
        for name, array in (("targets", self.targets), ("lengths", self.lengths)):
            if array is None:
                continue
            if len(array) != len(self.inputs):
                raise ValueError(f"{name} has {len(array)} rows but inputs has {len(self.inputs)}")
            real = name == "targets" and array.ndim == 3 and np.issubdtype(array.dtype, np.floating)
            if not real and not np.issubdtype(array.dtype, np.integer):
                raise TypeError(f"{name} of a split must be integers, got {array.dtype}")
        if self.lengths is not None and self.lengths.size:
            low, high, limit = int(self.lengths.min()), int(self.lengths.max()), self.steps
            if low < 1 or high > limit:
                raise ValueError(f"lengths must lie in 1..{limit}, got {low}..{high}")
        if self.pad_to is not None and (self.pad_to < 1 or self.lengths is None or self.targets.ndim > 1):
            raise ValueError(
                f"pad_to={self.pad_to} must be positive and needs lengths and one target a sequence; "
                "leave it out otherwise"
            )

    @property
    def steps(self) -> int:
        """Steps ``L`` of a stored sequence, padding included."""
        return int(self.inputs.shape[1 if self.lengths is None else self.lengths.ndim])

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Array | slice) -> Batch:
        """Encode the sequences of the given rows (integers, or a slice)."""
        stored, lengths = self.inputs[rows], None
        if self.lengths is not None:
            lengths = torch.from_numpy(self.lengths[rows].astype(np.int64))
            if self.pad_to is not None:
                end = -(-int(lengths.max()) // self.pad_to) * self.pad_to
                stored = stored[:, :end] if lengths.ndim == 1 else stored[:, :, :end]
        # Copied, because PyTorch has no read-only tensors and an encoding may work in place.
        inputs = torch.from_numpy(np.array(stored))
        real = np.issubdtype(self.targets.dtype, np.floating)
        targets = torch.from_numpy(self.targets[rows].astype(np.float32 if real else np.int64))
        return Batch(self.encode(inputs), targets, lengths)

    def subset(self, rows: Array | slice) -> Split:
        """Return a split of the given rows only; a slice shares memory with this one."""
        lengths = None if self.lengths is None else self.lengths[rows]
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], lengths=lengths)

    def take(self, count: int) -> Split:
        """Return the first ``count`` rows (all of them if there are fewer).

        Raises:
            ValueError: If ``count`` is not positive.
        """
        if count < 1:
            raise ValueError(f"a split must keep at least one row, got count={count}")
        return self.subset(slice(0, count))


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set; ``validation`` is cut from training data, never from the test set."""

    train: Split
    validation: Split
    test: Split


def hold_out(split: Split, *, fraction: float = 0.1, seed: int = 0) -> tuple[Split, Split]:
    """Cut a random validation part off a training split.

    The choice depends on ``seed`` and the row count only, so every training run of a task, whatever its own
    seed, is validated on the same sequences.

    Args:
        split: The whole training data, at least two rows.
        fraction: Share of the rows that is held out, in (0, 1).
        seed: Seed of the choice.

    Returns:
        Training and validation split, each in the original order of rows.

    Raises:
        ValueError: If ``fraction`` leaves either part empty.
    """
    held = round(len(split) * fraction)
    if not 0 < held < len(split):
        raise ValueError(f"holding out fraction={fraction} of {len(split)} rows leaves a part empty")
    # RandomState's streams are frozen for good, Generator's may change with a NumPy release.
    order = np.random.RandomState(seed).permutation(len(split))
    return split.subset(np.sort(order[held:])), split.subset(np.sort(order[:held]))
