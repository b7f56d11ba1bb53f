"""Triton's batch normalisation, interpreted, against PyTorch's in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from compressm.models import norm
from compressm.scan.runtime import tiles

MODULE = "compressm.models.norm_triton"
Interpreted = Callable[..., tuple[Any, ...]]


def forward(interpreted: Interpreted, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normal, mean, var = interpreted(MODULE, "batch_norm", (x, 1e-5), {"programs": 6})
    return normal, mean, var


def backward(interpreted: Interpreted, *operands: Tensor) -> Tensor:
    return torch.stack(interpreted(MODULE, "batch_norm_backward", (*operands, 1e-5), {"programs": 6}))


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("shape", [(2, 1), (1031, 1), (211, 3), (67, 130)], ids=str)
def test_values_statistics_and_gradients(interpreted: Interpreted, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, grad = 3 * torch.randn(shape) + 5, torch.randn(shape)
    normal, mean, var = forward(interpreted, x)
    exact = x.double().requires_grad_()
    expected = F.batch_norm(exact, None, None, training=True)
    assert relative(normal, expected.detach()) < 1e-6
    assert relative(mean, x.double().mean(0)) < 1e-7
    assert relative(var, x.double().var(0, correction=0)) < 1e-7
    (exact_grad,) = torch.autograd.grad(expected, exact, grad.double())
    if len(x) == 2:  # two rows become -1 and 1: what is left of the gradient is a difference of roundings
        assert (backward(interpreted, grad, normal, var) - exact_grad).abs().max() < 1e-6
    else:
        assert relative(backward(interpreted, grad, normal, var), exact_grad) < 1e-6


def test_a_large_mean_costs_no_digits_of_the_variance(interpreted: Interpreted) -> None:
    torch.manual_seed(1)
    x = torch.randn(400, 3) + 1e4
    x[0] = 0.0  # such as padding: no shift by a first row would help
    x[1] = 2e4
    _, mean, var = forward(interpreted, x)
    assert relative(mean, x.double().mean(0)) < 1e-7
    assert relative(var, x.double().var(0, correction=0)) < 1e-7
    x[:2] = 1e4
    _, _, var = forward(interpreted, x)
    assert relative(var, x.double().var(0, correction=0)) < 1e-6


def test_constant_channels_strided_inputs_and_half_precision(interpreted: Interpreted) -> None:
    torch.manual_seed(2)
    x = torch.randn(6, 40).mT
    x[:, 2] = 7.0
    normal, *_ = forward(interpreted, x)
    assert torch.equal(normal[:, 2], torch.zeros(40))
    half = x.bfloat16()
    normal, mean, var = forward(interpreted, half)
    assert (normal.dtype, mean.dtype, var.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    exact = half.double().requires_grad_()
    expected = F.batch_norm(exact, None, None, training=True)
    assert relative(normal, expected.detach()) < 8e-3  # the interpreter cuts digits of bfloat16 off
    assert relative(mean, half.double().mean(0)) < 1e-7
    grad = torch.randn(40, 6).bfloat16()
    found = backward(interpreted, grad, normal, var)
    (exact_grad,) = torch.autograd.grad(expected, exact, grad.double())
    varied = [0, 1, 3, 4, 5]
    assert found.dtype == torch.bfloat16
    assert relative(found[:, varied], exact_grad[:, varied]) < 1e-2


def test_cuda_tensors_are_traced_without_a_device() -> None:
    with FakeTensorMode():
        x = torch.empty(5, 3, device="cuda", dtype=torch.bfloat16)
        normal, mean, var = norm._batch_norm(x, 1e-5)
        grad = norm._batch_norm_backward(normal, normal, var, 1e-5)
    assert (normal.shape, normal.dtype) == (grad.shape, grad.dtype) == ((5, 3), torch.bfloat16)
    assert (mean.shape, mean.dtype) == (var.shape, var.dtype) == ((3,), torch.float32)
    assert {value.device.type for value in (normal, mean, var, grad)} == {"cuda"}


@pytest.mark.parametrize("shape", [(51200, 512), (39200, 8), (7, 130), (1, 1), (100, 1024), (3, 70_000)])
@pytest.mark.parametrize("programs", [None, 1056])
def test_tiles_cover_the_matrix_once(shape: tuple[int, int], programs: int | None) -> None:
    (M, H), cut = shape, tiles.Tiles.of(*shape, programs)
    assert cut.columns * cut.blocks >= H > cut.columns * (cut.blocks - 1)
    assert cut.steps * cut.parts >= M > cut.steps * (cut.parts - 1)
    assert cut.steps % cut.rows == 0
    if programs is not None:
        assert cut.parts * cut.blocks <= max(programs, cut.blocks)
