"""The part of a training step that no cut can remove."""

import copy
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from compressm.data import Batch
from compressm.models import SequenceClassifier


class _NoRecurrence(nn.Module):
    """A layer without states: what remains of a state-space layer when its recurrence costs nothing."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.ones(model_dim))

    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        del final_state
        return u * self.D, state


def step_floor(model: SequenceClassifier, batch: Batch, *, repeats: int = 15) -> float:
    """Median seconds of a training step of ``model`` on ``batch`` with the recurrences taken out.

    Encoder, norms, activations, dropout, GLU, head and AdamW remain; a model with fewer states comes closer
    to this time but not below it. The model and the random state are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        bare = copy.deepcopy(model).train()
        for block in bare.blocks:
            block.mixer = _NoRecurrence(bare.encoder.out_features)
        optimizer = AdamW(bare.parameters(), fused=True)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(bare(batch.inputs, batch.lengths), batch.targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
