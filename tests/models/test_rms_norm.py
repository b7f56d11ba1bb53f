"""The norm of language models by our kernels, against its definition in float64."""

import pytest
import torch
from torch import Tensor, nn

from compressm.models.rms_norm import RMSNorm


def exact(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return weight.double() * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-3)


@pytest.mark.parametrize("shape", [(3, 50, 8), (1, 1), (2, 7, 130), (9, 64), (2, 40, 500)])
def test_values_and_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(shape[-1], eps=1e-3)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    x = (2 * torch.randn(shape) + 1).requires_grad_()
    weight = torch.randn(shape)
    y = norm(x)
    assert "_Norm" in str(y.grad_fn)
    grads = torch.autograd.grad((y * weight).sum(), (x, norm.weight))
    expected = exact(x, norm.weight)
    wanted = torch.autograd.grad((expected * weight).sum(), (x, norm.weight))
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    for found, right in zip(grads, wanted, strict=True):
        # With one channel nothing but a difference of equal numbers is left.
        assert (found - right).norm() < 2e-6 * max(right.norm(), weight.norm() / 10)


def test_strided_inputs_and_other_types_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 9).transpose(1, 2)
    norm, stock = RMSNorm(6), nn.RMSNorm(6, eps=1e-5)
    assert list(norm.state_dict()) == list(stock.state_dict())
    torch.testing.assert_close(norm(x), stock(x))
    assert norm(x[:0]).shape == (0, 9, 6)
    torch.testing.assert_close(norm.double()(x.double()), stock.double()(x.double()))
    half = RMSNorm(6).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="normalized_shape"):
        RMSNorm(6)(torch.randn(3, 5))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    torch.manual_seed(2)
    x, weight = torch.randn(700, 64, requires_grad=True), torch.randn(700, 64)
    norm = RMSNorm(64)
    wanted = torch.autograd.grad((norm(x) * weight).sum(), (x, norm.weight))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = torch.autograd.grad((norm(x) * weight).sum(), (x, norm.weight))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def test_compiling_and_exporting_see_an_operator_of_pytorch() -> None:
    norm, x = RMSNorm(6), torch.randn(3, 6)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), norm(x))
    program = torch.export.export(norm, (x,))
    assert "rms_norm" in str(program.graph)
