"""The gate of a feed-forward part against PyTorch's operators in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.models.swiglu import swiglu


def exact(both: Tensor) -> Tensor:
    gate, value = both.chunk(2, dim=-1)
    return F.silu(gate) * value


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 2, 1024), (300, 34), (2, 3, 5, 700), (5000, 2), (1, 6)])
def test_outputs_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    both = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    out = swiglu(both)
    grad = torch.randn(out.shape).to(dtype)
    (found,) = torch.autograd.grad(out, both, grad)
    wide = both.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(exact(wide), wide, grad.double())
    assert out.dtype == found.dtype == dtype
    tolerance = 3e-7 if dtype == torch.float32 else 2**-8
    if both.numel() < 1 << 12 and dtype == torch.bfloat16:
        tolerance = 2**-6  # PyTorch's own operators round in between
    assert error(out, exact(both.detach().double())) < tolerance
    assert error(found, wanted) < tolerance


def test_it_is_one_node_where_that_pays_and_only_once_differentiable() -> None:
    both = torch.randn(64, 128, requires_grad=True)
    out = swiglu(both)
    assert "_SwiGLU" in out.grad_fn.name()
    (grad,) = torch.autograd.grad(out.square().sum(), both, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()  # type: ignore[no-untyped-call]
    for other in (torch.randn(2, 8, requires_grad=True), torch.randn(64, 128).double().requires_grad_()):
        assert "_SwiGLU" not in swiglu(other).grad_fn.name()


def test_strided_inputs_and_any_number_of_threads() -> None:
    whole = torch.randn(256, 90)
    both = whole[:, 10:70]
    wanted = swiglu(both.contiguous())
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(swiglu(both), wanted)
    finally:
        torch.set_num_threads(before)


def test_extreme_gates_stay_finite() -> None:
    gate = torch.linspace(-1e4, 1e4, 4096)
    both = torch.stack((gate, torch.ones(4096)), dim=1).requires_grad_()
    out = swiglu(both)
    (grad,) = torch.autograd.grad(out.sum(), both)
    assert torch.allclose(out[:, 0], F.silu(gate), rtol=1e-5, atol=1e-6)
    assert grad.isfinite().all()


def test_compiled_it_is_pytorchs_own() -> None:
    both = torch.randn(64, 128)
    compiled = torch.compile(swiglu, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(both), swiglu(both))
    torch._dynamo.reset()
