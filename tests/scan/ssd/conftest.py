"""The oracle of linear attention, and random operands for it."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

Operands = dict[str, Tensor]


def naive(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The definition in float64: one sequence, head and step after the other, with whole matrices."""
    (batch, L, heads, K), V = q.shape, v.shape[3]
    outputs = torch.zeros(batch, L, heads, V, dtype=torch.float64)
    finals = torch.zeros(batch, heads, K, V, dtype=torch.float64)
    for b in range(batch):
        for head in range(heads):
            S = torch.zeros(K, V, dtype=torch.float64) if state is None else state[b, head]
            for t in range(L):
                decay = torch.diag(log_decay[b, t, head].exp().expand(K))
                S = decay @ S + torch.outer(k[b, t, head], v[b, t, head])
                outputs[b, t, head] = scale * (S.T @ q[b, t, head])
            finals[b, head] = S
    return outputs, finals


def operands(
    batch: int,
    L: int,
    heads: int,
    K: int,
    V: int,
    dtype: torch.dtype,
    *,
    per_channel: bool,
    state: bool = True,
    strength: float = 1.0,
) -> Operands:
    """Random operands; logarithms of decays are ``-strength`` times something around 1."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    shape = (batch, L, heads, K) if per_channel else (batch, L, heads)
    made = {
        "q": normal(batch, L, heads, K),
        "k": normal(batch, L, heads, K),
        "v": normal(batch, L, heads, V),
        "log_decay": -strength * normal(*shape).exp(),
    }
    if state:
        made["state"] = normal(batch, heads, K, V)
    return {name: value.to(dtype).requires_grad_() for name, value in made.items()}


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


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor], floor: float = 1e-3) -> dict[str, float]:
    """Norm-wise error of each entry, relative to the wanted norm or, where that is smaller, to ``floor``."""
    assert found.keys() == wanted.keys()
    result = {}
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        distance = (found[name].double() - value.double()).norm().item()
        result[name] = distance / max(value.double().norm().item(), floor)
    return result


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(naive=naive, operands=operands, wide=wide, gradients=gradients, errors=errors)


@pytest.fixture
def tf32() -> Iterator[str]:
    """Matrix products of a card may be made in TF32; gives the setting that was."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield before
    torch.backends.cuda.matmul.fp32_precision = before
