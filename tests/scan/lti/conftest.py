"""The oracle of the LTI recurrence, and random operands for it."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

Operands = dict[str, Tensor]


def naive(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The definition, one complex128 step after the other."""
    value, into, out_of = (torch.complex(x[0].double(), x[1].double()) for x in (lam, B, C))
    x = torch.zeros(u.shape[0], lam.shape[1], dtype=torch.complex128)
    if state is not None:
        x = torch.complex(state[:, 0].double(), state[:, 1].double())
    times = range(u.shape[1])
    outputs = {}
    for k in reversed(times) if reverse else times:
        x = value * x + u[:, k].to(torch.complex128) @ into.T
        outputs[k] = (x @ out_of.T).real
    return torch.stack([outputs[k] for k in times], dim=1), torch.stack((x.real, x.imag), dim=1)


def operands(
    batch: int, L: int, H: int, P: int, N: int, dtype: torch.dtype, *, state: bool = True, seed: int = 0
) -> Operands:
    """Random operands with eigenvalues on the ring of 0.5 to 0.999."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    radius = 0.5 + 0.499 * torch.rand(N, generator=generator, dtype=torch.float64)
    phase = 6.28 * torch.rand(N, generator=generator, dtype=torch.float64)
    made = {
        "u": normal(batch, L, H),
        "lam": torch.stack((radius * phase.cos(), radius * phase.sin())),
        "B": normal(2, N, H),
        "C": normal(2, P, N),
    }
    if state:
        made["state"] = normal(batch, 2, N)
    return {name: value.to(dtype).requires_grad_() for name, value in made.items()}


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
    return SimpleNamespace(naive=naive, operands=operands, gradients=gradients, errors=errors)
