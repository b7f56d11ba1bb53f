"""Some rows of a parameter, and of its optimiser moments: what dropping states does to a projection."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressm.adapters.base import ParameterUpdate


def kept_rows(parameter: Tensor, rows: Tensor, *, dim: int = 0, factor: float = 1.0) -> ParameterUpdate:
    """The parameter with some of its rows, each multiplied by ``factor``.

    Gradients by what is multiplied shrink by the same factor, and so do first moments; second moments by its
    square.

    Args:
        parameter: The parameter.
        rows: Indices of the rows that stay.
        dim: The dimension that they are in.
        factor: What they are multiplied by.
    """
    rows = rows.cpu()

    def moved(value: Tensor, scale: float) -> Tensor:
        return scale * value.index_select(dim, rows)

    return ParameterUpdate(
        moved(parameter.detach().cpu(), factor),
        lambda moment: moved(moment, 1 / factor),
        lambda moment: moved(moment, 1 / factor**2),
    )


def block_rows(indices: Tensor, states: int) -> Tensor:
    """Rows of blocks of ``states`` rows each that stay: ``(G, r)`` indices within blocks as ``(G r,)``."""
    offsets = states * torch.arange(len(indices))
    return (indices + offsets[:, None]).flatten()


def refresh_sizes(layer: nn.Module, names: Sequence[str]) -> None:
    """Bring what linear maps and depthwise convolutions say of their size in line with their weights."""
    for name in names:
        module: Any = layer.get_submodule(name)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Conv1d):
            for size in ("in_channels", "out_channels", "groups", "hidden_size"):
                if hasattr(module, size):
                    setattr(module, size, module.weight.shape[0])
