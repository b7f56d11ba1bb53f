"""The one-pass operators against PyTorch's own in double precision, and their masks against statistics."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.models import pointwise_cpu, pointwise_ops
from compressm.models.pointwise import gate_dropout_residual, gelu_dropout, glu_dropout_residual

SHAPES = [(1, 1), (3, 5), (7, 1025), (2, 50, 8), (300, 41)]


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def leaves(*shape: int, count: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [(3 * torch.randn(*shape)).requires_grad_() for _ in range(count)]


def doubled(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_and_its_gradient_under_the_same_mask(shape: tuple[int, ...]) -> None:
    (y,) = leaves(*shape, count=1)
    torch.manual_seed(1)
    out = gelu_dropout(y, 0.25)
    grad = torch.randn(shape)
    out.backward(grad)
    torch.manual_seed(1)
    mask = gelu_dropout(torch.full(shape, 30.0), 0.25).double() / 30.0  # gelu(30) is 30
    (reference,) = doubled([y])
    expected = F.gelu(reference) * mask
    expected.backward(grad.double())
    assert (out.double() - expected).norm() <= 3e-7 * F.gelu(reference).norm()
    assert (y.grad.double() - reference.grad).norm() <= 3e-7 * grad.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_gate_and_its_gradients_under_the_same_mask(shape: tuple[int, ...]) -> None:
    x, a, b = leaves(*shape, count=3)
    torch.manual_seed(2)
    out = gate_dropout_residual(x, a, b, 0.25)
    grad = torch.randn(shape)
    out.backward(grad)
    torch.manual_seed(2)
    ones, wide = torch.ones(shape), torch.full(shape, 80.0)  # sigmoid(80) is 1
    mask = gate_dropout_residual(torch.zeros(shape), ones, wide, 0.25).double()
    rx, ra, rb = doubled([x, a, b])
    expected = rx + ra * torch.sigmoid(rb) * mask
    expected.backward(grad.double())
    assert relative(out, expected) < 3e-7
    assert torch.equal(x.grad, grad)
    for actual, reference in ((a, ra), (b, rb)):
        assert (actual.grad.double() - reference.grad).norm() <= 3e-7 * grad.norm() * ra.abs().max()


def test_extreme_values_stay_finite_and_right() -> None:
    y = torch.tensor([-1e30, -100.0, -20.0, -0.0, 0.0, 1e-30, 20.0, 100.0, 1e30], requires_grad=True)
    out = gelu_dropout(y, 1e-9)  # keeps everything, at scale 1
    assert torch.allclose(out, F.gelu(y), rtol=1e-6)
    out.sum().backward()
    assert torch.allclose(y.grad, torch.tensor([0.0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1]), atol=1e-6)
    gated = gate_dropout_residual(torch.zeros(9), torch.ones(9), y.detach(), 1e-9)
    assert torch.allclose(gated, torch.sigmoid(y.detach()), atol=1e-6)
    assert torch.isnan(gelu_dropout(torch.tensor([float("nan")]), 1e-9)).all()


def test_tails_make_no_subnormal_numbers() -> None:
    """Subnormal numbers are right and slow: a trained model's steps once took ten times as long."""
    smallest = torch.finfo(torch.float32).tiny
    y = torch.linspace(-200, 200, 100_001).requires_grad_()
    b = torch.linspace(-200, 200, 100_001).requires_grad_()
    a = torch.ones(100_001, requires_grad=True)
    hidden, gated = gelu_dropout(y, 0.1), gate_dropout_residual(torch.zeros(100_001), a, b, 0.1)
    (hidden.sum() + gated.sum()).mul(1e-8).backward()
    for tensor in (hidden.detach(), gated.detach(), y.grad, a.grad, b.grad):
        assert not ((tensor != 0) & (tensor.abs() < smallest)).any()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_are_drawn_element_by_element(p: float) -> None:
    """Rate, scale, and no correlation between neighbours, rows, calls or channels."""
    torch.manual_seed(3)
    rows, channels = 4096, 64
    first, second = (gelu_dropout(torch.full((rows, channels), 30.0), p) / 30 for _ in range(2))
    assert first.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    kept = (first > 0).double()
    deviation = (p * (1 - p)) ** 0.5
    count = kept.numel()
    assert abs(kept.mean().item() - (1 - p)) < 5 * deviation / count**0.5
    centred = (kept - (1 - p)) / deviation
    other = ((second > 0).double() - (1 - p)) / deviation
    flat = centred.flatten()
    pairs = [(flat, other.flatten()), *((flat[lag:], flat[:-lag]) for lag in (1, 2, 8, channels, 1024))]
    for left, right in pairs:
        assert abs((left * right).mean().item()) < 5 / left.numel() ** 0.5
    # A single mask for all rows or for all channels would show here.
    assert kept.mean(0).std() < 5 * deviation / rows**0.5
    assert kept.mean(1).std() < 3 * deviation / channels**0.5


def test_the_mask_follows_pytorchs_seed_and_not_the_number_of_threads() -> None:
    y = torch.randn(64, 1000)
    results = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            torch.manual_seed(4)
            results.append(gelu_dropout(y, 0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], gelu_dropout(y, 0.3))


def test_without_dropout_and_in_other_types_pytorch_does_the_work() -> None:
    y = torch.randn(5, 4)
    assert torch.equal(gelu_dropout(y, 0.0), F.gelu(y))
    x, a, b = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.equal(gate_dropout_residual(x, a, b, 0.0), x + a * torch.sigmoid(b))
    assert gate_dropout_residual(x, a, b, 0.5).dtype == torch.float64
    assert gelu_dropout(y.bfloat16(), 0.5).dtype == torch.bfloat16
    assert gelu_dropout(torch.empty(0, 4), 0.5).shape == (0, 4)


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_under_autocast_gelu_is_rounded_and_nothing_else(p: float) -> None:
    (y,) = leaves(70, 1025, count=1)
    torch.manual_seed(1)
    wanted = gelu_dropout(y, p)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = gelu_dropout(y, p)
    assert torch.equal(out, wanted.bfloat16())
    grad = torch.randn(70, 1025).bfloat16()
    (found,) = torch.autograd.grad(out, y, grad)
    assert torch.equal(found, torch.autograd.grad(wanted, y, grad.float())[0])


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_a_gate_reads_products_in_half_precision_as_they_are(p: float) -> None:
    x, a, b = leaves(70, 1025, count=3)
    halves = [given.detach().bfloat16().requires_grad_() for given in (a, b)]
    wide = [half.detach().float().requires_grad_() for half in halves]
    results = []
    for operands in (halves, wide):
        torch.manual_seed(2)
        results.append(gate_dropout_residual(x, *operands, p))
    assert results[0].dtype == torch.float32
    assert torch.equal(*results)
    grad = torch.randn(70, 1025)
    found = torch.autograd.grad(results[0], halves, grad)
    wanted = torch.autograd.grad(results[1], wide, grad)
    for half, whole in zip(found, wanted, strict=True):
        assert torch.equal(half, whole.bfloat16())


@pytest.mark.parametrize("channels", [6, 70])
def test_a_gated_unit_under_autocast_keeps_the_residual_stream_in_float32(channels: int) -> None:
    torch.manual_seed(4)
    x, hidden = torch.randn(3, 41, channels, requires_grad=True), torch.randn(3, 41, 5, requires_grad=True)
    weight = torch.randn(2 * channels, 5, requires_grad=True)
    operands = (x, hidden, weight, torch.randn(2 * channels, requires_grad=True))
    wanted = glu_dropout_residual(*operands, 0.1**9)
    with torch.autocast("cpu", torch.bfloat16):
        found = glu_dropout_residual(*operands, 0.1**9)
    assert found.dtype == torch.float32
    assert "glu" in found.grad_fn.name() or "gate" in found.grad_fn.name()
    assert relative(found, wanted.double()) < 0.01
    for half, whole in zip(
        torch.autograd.grad(found.sum(), operands), torch.autograd.grad(wanted.sum(), operands), strict=True
    ):
        assert half.dtype == torch.float32
        assert relative(half, whole.double()) < 0.02


def test_operators_are_registered_correctly() -> None:
    y, a, b = (torch.randn(3, 8, requires_grad=True) for _ in range(3))
    seed = torch.tensor([12345])
    torch.library.opcheck(pointwise_ops.gelu_op, (y, seed, 0.2))
    torch.library.opcheck(pointwise_ops.gelu_op, (y, seed, 0.2, True))
    torch.library.opcheck(pointwise_ops.gate_op, (y, a, b, seed, 0.2))
    both, bias = torch.randn(3, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    torch.library.opcheck(pointwise_ops.glu_op, (y, both, bias, seed, 0.2))
    half = both.detach().bfloat16().requires_grad_()
    torch.library.opcheck(pointwise_ops.glu_op, (y, half, bias, seed, 0.2))


def test_the_gradient_of_a_bias_does_not_want_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP may give fewer than there are threads, as inside another parallel region."""
    both, grad, seed = torch.randn(300, 128), torch.randn(300, 64), torch.zeros(1, dtype=torch.int64)
    _, wanted = pointwise_cpu.glu_backward(both, torch.zeros(128), grad, seed, 0.0)
    run = pointwise_cpu.run_kernel
    monkeypatch.setattr(pointwise_cpu, "_threads", lambda _: 9)
    monkeypatch.setattr(pointwise_cpu, "run_kernel", lambda kernel, words, _: run(kernel, words, 1))
    torch.use_deterministic_algorithms(True)  # what is only allocated is no number
    try:
        _, found = pointwise_cpu.glu_backward(both, torch.zeros(128), grad, seed, 0.0)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("channels", [6, 64, 70])
def test_one_product_or_two_give_the_same_gated_unit(channels: int, p: float) -> None:
    """The operands of the gate as halves of one matrix (many channels) and as two matrices (few)."""
    torch.manual_seed(4)
    x, hidden = torch.randn(2, 41, channels, requires_grad=True), torch.randn(2, 41, 5, requires_grad=True)
    weight = torch.randn(2 * channels, 5, requires_grad=True)
    bias = torch.randn(2 * channels, requires_grad=True)
    operands = (x, hidden, weight, bias)
    torch.manual_seed(9)
    one = glu_dropout_residual(*operands, p)
    grads = torch.autograd.grad(one.square().sum(), operands)
    torch.manual_seed(9)
    a, b = (
        F.linear(hidden, weight[:channels], bias[:channels]),
        F.linear(hidden, weight[channels:], bias[channels:]),
    )
    two = gate_dropout_residual(x, a, b, p)
    torch.testing.assert_close(one, two)
    for g, expected in zip(grads, torch.autograd.grad(two.square().sum(), operands), strict=True):
        torch.testing.assert_close(g, expected, rtol=1e-4, atol=1e-4)
