"""The skip term by one kernel in each direction, interpreted, and as an operator, against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from compressm.layers import LRU, skip

MODULE = "compressm.layers.skip_triton"
Interpreted = Callable[..., tuple[Any, ...]]


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 11, 3), (67, 130)], ids=str)
def test_values_and_gradients(interpreted: Interpreted, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y, grad, D = torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
    u = torch.randn(shape[::-1]).permute(*range(len(shape))[::-1]).to(dtype)
    settings = {"programs": 4}
    out = torch.stack(interpreted(MODULE, "skip", (y, u, D), settings))
    grad_u, grad_D = interpreted(MODULE, "skip_backward", (grad, u, D), settings)
    assert (out.dtype, grad_u.dtype, grad_D.dtype) == (torch.float32, dtype, torch.float32)
    assert relative(out, y.double() + D.double() * u.double()) < 1e-6
    rounding = 1e-6 if dtype == torch.float32 else 8e-3  # the interpreter cuts digits of bfloat16 off
    assert relative(grad_u, grad.double() * D.double()) < rounding
    assert relative(grad_D, (grad.double() * u.double()).flatten(0, -2).sum(0)) < 1e-6


def test_the_operator_is_registered_correctly_and_traced_without_a_device() -> None:
    given = [torch.randn(size, requires_grad=True) for size in ((2, 5, 3), (2, 5, 3), (3,))]
    torch.library.opcheck(skip.skip_op, given)
    with FakeTensorMode():
        y = torch.empty(2, 5, 3, device="cuda")
        u, D = torch.empty(2, 5, 3, device="cuda", dtype=torch.bfloat16), torch.empty(3, device="cuda")
        out, grads = skip.skip_op(y, u, D), skip.skip_backward_op(y, u, D)
    assert (out.shape, out.dtype, out.device) == (y.shape, y.dtype, y.device)
    assert [(grad.shape, grad.dtype) for grad in grads] == [(x.shape, x.dtype) for x in (u, D)]


def test_layers_gradients_are_the_same_through_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    layer, u = LRU(3, 4), torch.randn(2, 7, 3, requires_grad=True)
    wanted = torch.autograd.grad(layer(u)[0].square().sum(), (u, layer.D))
    # Of the three, D is never large.
    monkeypatch.setattr(skip, "on_triton", lambda x: x.ndim == 3)
    found = torch.autograd.grad(layer(u)[0].square().sum(), (u, layer.D))
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other)
