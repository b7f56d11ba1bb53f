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


@pytest.mark.parametrize("channels", [8, 45])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_padding_anywhere_is_left_out(channels: int, share: float) -> None:
    torch.manual_seed(4)
    x = (3 * torch.randn(4, 90, channels) + 5).requires_grad_()
    mask = torch.rand(4, 90) < share
    mask[1, 20:60] = True
    mask[3] = False
    with torch.no_grad():
        x[~mask] = torch.nan
    weight, norm = torch.randn(x.shape), MaskedBatchNorm(channels)
    y = norm(x, mask)
    (grad,) = torch.autograd.grad((y * weight).sum(), x)
    exact = x.detach()[mask].double().requires_grad_()
    mean, var = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    expected = F.batch_norm(exact, mean, var, training=True)
    (exact_grad,) = torch.autograd.grad((expected * weight[mask]).sum(), exact)
    torch.testing.assert_close(y[mask].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad[mask].double(), exact_grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(y[~mask], torch.zeros_like(y[~mask]))
    assert torch.equal(grad[~mask], torch.zeros_like(grad[~mask]))
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-6)


def test_in_evaluation_padding_is_zero_whatever_it_holds() -> None:
    torch.manual_seed(6)
    norm, mask = MaskedBatchNorm(4), torch.rand(3, 20) < 0.5
    norm(torch.randn(3, 20, 4) + 1)
    x = torch.randn(3, 20, 4)
    x[~mask] = torch.nan
    x.requires_grad_()
    y = norm.eval()(x, mask)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    expected = (x[mask] - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(y[mask], expected)
    assert torch.equal(y[~mask], torch.zeros_like(y[~mask]))
    assert torch.equal(grad[~mask], torch.zeros_like(grad[~mask]))
    assert grad[mask].abs().min() > 0
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, mask), y)
    torch._dynamo.reset()


def test_a_single_step_of_data_is_refused() -> None:
    mask = torch.zeros(2, 50, dtype=torch.bool)
    mask[1, 7] = True
    with pytest.raises(ValueError, match="more than 1 value"):
        MaskedBatchNorm(4)(torch.randn(2, 50, 4), mask)


def test_masks_and_compilers_go_together() -> None:
    torch.manual_seed(5)
    x, mask = torch.randn(3, 40, 4), torch.arange(40) < torch.tensor([[40], [3], [17]])
    expected = MaskedBatchNorm(4)(x, mask)
    compiled = torch.compile(MaskedBatchNorm(4), backend="aot_eager")
    torch.testing.assert_close(compiled(x, mask), expected)
    torch._dynamo.reset()


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
