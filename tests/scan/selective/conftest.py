"""The oracle of the selective recurrence, and random operands for it."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

Operands = dict[str, Tensor]
OPTIONAL = ("D", "z", "delta_bias", "state")


def naive(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """The definition in float64, one sequence, step and state after the other."""
    outputs, finals = [], []
    for b in range(u.shape[0]):
        h = [torch.zeros(u.shape[2], dtype=torch.float64) for _ in range(A.shape[1])]
        if state is not None:
            h = list(state[b].unbind(1))
        for t in range(u.shape[1]):
            step = delta[b, t]
            if delta_bias is not None:
                step = step + delta_bias
            if delta_softplus:
                step = torch.logaddexp(step, torch.zeros_like(step))
            y = torch.zeros_like(step)
            for n in range(A.shape[1]):
                h[n] = torch.exp(step * A[:, n]) * h[n] + step * u[b, t] * B[b, t, n]
                y = y + C[b, t, n] * h[n]
            if D is not None:
                y = y + D * u[b, t]
            if z is not None:
                y = y * z[b, t] / (1 + torch.exp(-z[b, t]))
            outputs.append(y)
        finals.append(torch.stack(h, dim=1))
    return torch.stack(outputs).view(u.shape), torch.stack(finals)


def operands(
    batch: int,
    L: int,
    d: int,
    N: int,
    dtype: torch.dtype,
    *,
    given: tuple[str, ...] = OPTIONAL,
) -> Operands:
    """Random operands; rates spread over two orders of magnitude, steps positive."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    made = {
        "u": normal(batch, L, d),
        "delta": 0.3 * normal(batch, L, d).exp(),
        "A": -normal(d, N).exp(),
        "B": normal(batch, L, N),
        "C": normal(batch, L, N),
        "D": normal(d),
        "z": normal(batch, L, d),
        "delta_bias": 0.1 * normal(d).abs(),
        "state": normal(batch, d, N),
    }
    kept = {name: value for name, value in made.items() if name not in OPTIONAL or name in given}
    return {name: value.to(dtype).requires_grad_() for name, value in kept.items()}


def wide(given: Operands) -> Operands:
    """The same numbers in float64."""
    return {name: value.detach().double().requires_grad_() for name, value in given.items()}


def gradients(
    run: Callable[..., tuple[Tensor, Tensor]], given: Operands, *, through: str = "both", **options: object
) -> dict[str, Tensor]:
    """Outputs, final state, and the gradients of a random weighting of "y", "final" or "both"."""
    y, final = run(**given, **options)
    generator = torch.Generator().manual_seed(1)
    weight_y = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    weight_final = torch.randn(final.shape, generator=generator, dtype=torch.float64).to(final.dtype)
    ends = {"y": [(y, weight_y)], "final": [(final, weight_final)]}
    chosen = ends["y"] + ends["final"] if through == "both" else ends[through]
    grads = torch.autograd.grad(
        [value for value, _ in chosen], list(given.values()), [weight for _, weight in chosen],
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    named = {f"grad_{name}": grad for name, grad in zip(given, grads, strict=True)}
    return {"y": y.detach(), "final": final.detach()} | named


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Norm-wise relative error of each entry; where the wanted one is zero, the norm itself."""
    assert found.keys() == wanted.keys()
    result = {}
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        norm = value.double().norm().item()
        result[name] = (found[name].double() - value.double()).norm().item() / (norm or 1.0)
    return result


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(naive=naive, operands=operands, wide=wide, gradients=gradients, errors=errors)
