"""The oracle of the short convolution, and random operands for it."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

Operands = dict[str, Tensor]


def naive(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, window: Tensor | None = None, *, silu: bool = False
) -> tuple[Tensor, Tensor]:
    """The definition, one step and tap after the other; inputs before the first step come from the window."""
    batch, L, channels = x.shape
    past = weight.shape[2] - 1
    rows = [x.new_zeros(batch, channels) for _ in range(past)]
    if window is not None:
        rows = [window[:, :, i] for i in range(past)]
    rows += [x[:, t] for t in range(L)]
    outputs = []
    for t in range(L):
        y = x.new_zeros(batch, channels) if bias is None else bias.expand(batch, channels)
        for j in range(past + 1):
            y = y + weight[:, 0, j] * rows[t + j]
        outputs.append(y * torch.sigmoid(y) if silu else y)
    final = torch.stack(rows[L:], dim=2) if past else x.new_zeros(batch, channels, 0)
    return torch.stack(outputs, dim=1), final


def operands(
    batch: int, L: int, channels: int, K: int, dtype: torch.dtype = torch.float32, *,
    given: tuple[str, ...] = ("bias", "window"),
) -> Operands:  # fmt: skip
    """Random operands, leaves of a graph."""
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "x": (batch, L, channels),
        "weight": (channels, 1, K),
        "bias": (channels,),
        "window": (batch, channels, K - 1),
    }
    return {
        name: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, size in sizes.items()
        if name in ("x", "weight", *given)
    }


def wide(given: Operands) -> Operands:
    """The same numbers in float64."""
    return {name: value.detach().double().requires_grad_() for name, value in given.items()}


def results(
    run: Callable[..., tuple[Tensor, Tensor]], given: Operands, *, through: str = "both", **options: object
) -> Operands:
    """Outputs, final window, and the gradients of a random weighting of "y", "final" or "both"."""
    y, final = run(**given, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)]
    sums = {"y": (y * weights[0]).sum(), "final": (final * weights[1]).sum()}
    total = sums["y"] + sums["final"] if through == "both" else sums[through]
    grads = torch.autograd.grad(total, list(given.values()), allow_unused=True, materialize_grads=True)
    named = {f"grad_{name}": grad for name, grad in zip(given, grads, strict=True)}
    return {"y": y.detach(), "final": final.detach()} | named


def errors(found: Operands, wanted: Operands) -> dict[str, float]:
    """Largest error of each entry, relative to its largest number or to 1 where all are smaller."""
    assert found.keys() == wanted.keys()
    result = {}
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        if value.numel():
            scale = max(1.0, value.abs().max().item())
            result[name] = (found[name].double() - value.double()).abs().max().item() / scale
    return result


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(naive=naive, operands=operands, wide=wide, results=results, errors=errors)
