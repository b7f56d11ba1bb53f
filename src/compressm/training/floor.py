"""The part of a training step that no cut can remove."""

import copy
import statistics
import time

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from compressm.data import Batch
from compressm.models import Block
from compressm.models.pre_norm_block import PreNormBlock
from compressm.models.sequence import TIME_INVARIANT
from compressm.training.device import wait_for
from compressm.training.objectives import Model, Objective


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


def step_floor(model: Model, batch: Batch, objective: Objective, *, repeats: int = 15) -> float | None:
    """Median seconds of a training step of ``model`` on ``batch`` with the recurrences taken out.

    Encoder, norms, activations, dropout, GLU, head and AdamW remain; a model with fewer states comes closer
    to this time but not below it. The model and the random state are left as they were. None for layers
    whose other parts (projections, convolutions, gates) do not part from the recurrence.
    """
    if model.mixer not in TIME_INVARIANT:
        return None
    device = batch.inputs.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        bare = copy.deepcopy(model).train()
        for block in bare.modules():
            if isinstance(block, Block | PreNormBlock):
                block.register_module("mixer", _NoRecurrence(model.config["model_dim"]).to(device))
        optimizer = AdamW(bare.parameters(), fused=True)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            objective.learn(bare, batch)[0].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            wait_for(device)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
