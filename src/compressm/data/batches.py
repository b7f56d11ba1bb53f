"""The order in which batches are drawn: shuffled without end for training, in order once for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from compressm.data.splits import Array, Batch, Split


class Batches:
    """Endless shuffled batches whose position can be saved and restored.

    Every epoch is a fresh permutation drawn from a generator seeded by ``(seed, epoch)``: the global random
    state is neither read nor changed, and a position is two integers. In distributed training each process
    builds the same sampler with its own ``rank`` and receives disjoint parts of every global batch.

    Args:
        split: Where the sequences come from.
        batch_size: Sequences per batch (per process).
        seed: Seed of the order, a non-negative integer; 0 is a seed like any other.
        drop_last: Leave out the rest of an epoch that does not fill a batch, so that all batches have one
            shape. Otherwise the last batch of an epoch is smaller.
        rank: Index of this process, in 0..world_size-1.
        world_size: Number of processes.

    Raises:
        ValueError: If an argument is out of range or no batch can be filled.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..world_size-1, got rank={rank}, world_size={world_size}")
        needed = batch_size * world_size if drop_last else world_size
        if len(split) < needed:
            raise ValueError(
                f"{len(split)} sequences cannot fill a batch of batch_size={batch_size} on "
                f"world_size={world_size} processes; lower batch_size or pass drop_last=False"
            )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._position = 0
        self._order = self._shuffle()

    @property
    def epoch(self) -> int:
        """Number of the epoch (from 0) that the next batch belongs to."""
        return self._epoch + (self._position == self.batches_per_epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches after which the order is shuffled anew."""
        whole, rest = divmod(len(self.split), self.batch_size * self.world_size)
        # A rest too small to give every process a sequence is left out: no rank may run out of batches.
        return whole + (not self.drop_last and rest >= self.world_size)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self._position == self.batches_per_epoch:
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._shuffle()
        start = self._position * self.batch_size * self.world_size
        together = self._order[start : start + self.batch_size * self.world_size]
        self._position += 1
        return self.split.batch(together[self.rank :: self.world_size])

    def state_dict(self) -> dict[str, int | bool]:
        """Return the position and what it depends on, the same on every rank; plain values, safe for JSON."""
        return {"epoch": self._epoch, "position": self._position, "seed": self.seed, **self._layout()}

    def load_state_dict(self, state: Mapping[str, int | bool]) -> None:
        """Continue exactly where the sampler that gave ``state`` stood, with that sampler's seed.

        Raises:
            ValueError: If a key is missing or unknown, or the state belongs to another split, batch size or
                number of processes, so that its position would mean other sequences.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(
                f"the state of a batch sampler has the keys {sorted(self.state_dict())}, got {sorted(state)}"
            )
        for key, here in self._layout().items():
            if state[key] != here:
                raise ValueError(
                    f"cannot resume the batch sampler: {key} was {state[key]} when saved and is {here} now; "
                    f"resume with {key}={state[key]}"
                )
        epoch, position, seed = int(state["epoch"]), int(state["position"]), int(state["seed"])
        if epoch < 0 or seed < 0 or not 0 <= position <= self.batches_per_epoch:
            raise ValueError(f"impossible state of a batch sampler: {dict(state)}")
        self._epoch, self._position, self.seed = epoch, position, seed
        self._order = self._shuffle()

    def _layout(self) -> dict[str, int | bool]:
        return {
            "count": len(self.split),
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "world_size": self.world_size,
        }

    def _shuffle(self) -> Array:
        # Hashed together: with seed + epoch, epoch 1 of seed 0 would repeat epoch 0 of seed 1.
        mixed = np.random.SeedSequence((self.seed, self._epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        order: Array = torch.randperm(len(self.split), generator=generator).numpy()
        return order


def ordered_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Give every sequence of a split once, in order; the last batch may be smaller.

    Raises:
        ValueError: If ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    # The check must not wait for the first batch, so the generator is a part of its own.
    return (split.batch(slice(start, start + batch_size)) for start in range(0, len(split), batch_size))
