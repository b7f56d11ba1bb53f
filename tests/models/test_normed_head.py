"""A norm and the linear map behind it, against float64 and against the operators."""

import pytest
import torch
from torch import Tensor, nn

from compressm.models import normed_head as module
from compressm.models.normed_head import normed_head
from compressm.models.rms_norm import RMSNorm
from compressm.scan.runtime import gemm_addresses

BATCH, L, H, V = 6, 45, 20, 33

pytestmark = pytest.mark.skipif(
    "gemm_bf16bf16f32_" not in (gemm_addresses() or {}), reason="PyTorch was built without MKL's products"
)


@pytest.fixture(autouse=True)
def every_product_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16, which are emulated where the processor has none, are right if slow."""
    monkeypatch.setattr(module, "can_multiply", lambda _: True)


def operands() -> tuple[Tensor, RMSNorm, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(H, eps=1e-2)
    nn.init.uniform_(norm.weight, 0.5, 2.0, generator=generator)
    x = torch.randn(BATCH, L, H, generator=generator)
    return x, norm, nn.Parameter(torch.randn(V, H, generator=generator))


def results(x: Tensor, norm: RMSNorm, weight: Tensor) -> list[Tensor]:
    """Logits, and gradients of x and both weights."""
    x = x.clone().requires_grad_()
    logits = normed_head(x, norm, weight)
    pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits.dtype)
    return [logits, *torch.autograd.grad((logits * pull).sum(), (x, norm.weight, weight))]


def wanted() -> list[Tensor]:
    x, norm, weight = operands()
    return results(x.double(), norm.double(), weight.detach().double().requires_grad_())


def largest_error(found: list[Tensor]) -> float:
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, wanted(), strict=True))


def together(logits: Tensor) -> bool:
    return type(logits.grad_fn).__name__ == "_HeadBackward"


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_it_equals_the_operators_in_float64(threads: int) -> None:
    """With four threads two would have nothing to do for half of the time: the operators are called."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = results(*operands())
    finally:
        torch.set_num_threads(before)
    assert together(found[0]) == (threads != 4)
    assert largest_error(found) < 2e-6


def test_under_autocast_products_are_rounded_and_logits_are_not() -> None:
    x, norm, weight = operands()
    with torch.autocast("cpu", torch.bfloat16):
        found = results(x, norm, weight)
        handle = norm.register_forward_hook(lambda *_: None)
        apart = results(x, norm, weight)
        handle.remove()
    assert together(found[0])
    assert not together(apart[0])
    assert found[0].dtype == apart[0].dtype == torch.float32
    assert 1e-4 < largest_error(found) < 0.01
    assert largest_error(found) < 1.5 * largest_error(apart)


def test_half_precision_of_parameters_is_left_to_the_operators() -> None:
    x, norm, weight = operands()
    logits = normed_head(x.bfloat16(), norm.bfloat16(), weight.bfloat16())
    assert logits.dtype == torch.bfloat16
    assert not together(logits)


def test_without_gradients_and_of_single_steps() -> None:
    x, norm, weight = operands()
    logits = normed_head(x, norm, weight)
    with torch.no_grad():
        assert torch.equal(normed_head(x, norm, weight), logits)
    last = normed_head(x[:, -1], norm, weight)
    assert not together(last)
    assert torch.allclose(last, logits[:, -1], atol=1e-5)


@pytest.mark.parametrize("change", ["hook", "large vocabulary", "transform"])
def test_operators_are_called_where_they_are_wanted(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, norm, weight = operands()
    called: list[int] = []
    if change == "hook":
        norm.register_forward_hook(lambda *_: called.append(1))
    if change == "large vocabulary":
        monkeypatch.setattr(module, "_LARGEST", V * H - 1)
    if change == "transform":
        logits = torch.func.vmap(lambda row: normed_head(row, norm, weight))(x[None])[0]
    else:
        logits = normed_head(x, norm, weight)
    assert not together(logits)
    assert called == ([1] if change == "hook" else [])
    assert torch.allclose(logits.double(), wanted()[0], atol=1e-5)
