"""A training step recorded on a CUDA device and replayed: small models there wait for their launches."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from compressm.data import Batch

WARM = 3
"""Steps made as usual before one is recorded: they load libraries and kernels, which a recording may not."""

Compute = Callable[[Batch], tuple[Tensor, Tensor | None]]


class GraphedStep:
    """Loss and gradients for batches of one shape, from one CUDA graph.

    Gradients are made anew while recording and written over by every replay, so between replays they must not
    be set to None. Parameters must keep their place in memory: record after the last cut. What hooks do in
    Python happens while recording alone.

    Args:
        compute: Makes loss and accuracy of a batch, and the gradients; without waiting for the device.
        batch: A batch on the device.
        optimizer: Of the parameters.
    """

    def __init__(self, compute: Compute, batch: Batch, optimizer: Optimizer) -> None:
        # What it refers to, buffers of the model among it, must live as long as the graph that writes there.
        self._compute = compute
        self._batch = Batch(batch.inputs.clone(), batch.targets.clone(), None)
        optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = compute(self._batch)

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the recorded shape and no padding."""
        return (
            batch.lengths is None
            and batch.inputs.shape == self._batch.inputs.shape
            and batch.targets.shape == self._batch.targets.shape
        )

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What ``compute`` returns; the next call writes over it."""
        self._batch.inputs.copy_(batch.inputs)
        self._batch.targets.copy_(batch.targets)
        self._graph.replay()
        return self._results
