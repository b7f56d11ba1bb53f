"""Batch normalisation by our kernels, against PyTorch's and against float64."""

import pytest
import torch
import torch.nn.functional as F

from compressm.models import MaskedBatchNorm


@pytest.mark.parametrize("shape", [(3, 50, 8), (1, 2, 1), (2, 700, 13), (4, 300, 64), (5, 3)])
def test_values_gradients_and_running_statistics(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels = shape[-1]
    x = (3 * torch.randn(shape) + 5).requires_grad_()
    weight = torch.randn(shape)
    norm = MaskedBatchNorm(channels)
    y = norm(x)
    (grad,) = torch.autograd.grad((y * weight).sum(), x)
    exact = x.detach().double().requires_grad_()
    mean, var = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    expected = F.batch_norm(exact.reshape(-1, channels), mean, var, training=True).view(shape)
    (exact_grad,) = torch.autograd.grad((expected * weight).sum(), exact)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-6)


def test_a_large_mean_costs_no_digits() -> None:
    torch.manual_seed(1)
    x = torch.randn(1000, 3) + 1e4
    y = MaskedBatchNorm(3)(x)
    expected = F.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(3), rtol=1e-4, atol=1e-4)


def test_constant_channels_and_strided_inputs() -> None:
    x = torch.randn(4, 6, 9).permute(0, 2, 1)
    x[..., 2] = 7.0
    y = MaskedBatchNorm(6)(x)
    assert torch.equal(y[..., 2], torch.zeros(4, 9))
    torch.testing.assert_close(y, MaskedBatchNorm(6)(x.contiguous()))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    torch.manual_seed(2)
    x = torch.randn(3000, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = MaskedBatchNorm(16)(x)
    finally:
        torch.set_num_threads(before)
    expected = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_other_types_are_served_by_pytorch_and_compiling_works() -> None:
    x = torch.randn(30, 4, dtype=torch.float64)
    norm = MaskedBatchNorm(4).double()
    torch.testing.assert_close(norm(x), F.batch_norm(x, None, None, training=True))
    compiled = torch.compile(MaskedBatchNorm(4), fullgraph=True, backend="aot_eager")
    y = x.float().requires_grad_()
    (grad,) = torch.autograd.grad(compiled(y).square().sum(), y)
    assert torch.isfinite(grad).all()
    torch._dynamo.reset()
