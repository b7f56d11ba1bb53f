"""Triton's pointwise kernels, interpreted, against PyTorch in float64 under masks of the CPU's kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from compressm.models import pointwise_cpu, pointwise_ops
from compressm.models.pointwise import glu_dropout_residual
from compressm.scan.runtime import card, tiles

MODULE = "compressm.models.pointwise_triton"
SHAPES = [(1, 1), (37, 3), (53, 65), (2, 11, 7)]
HALF = 8e-3  # the interpreter cuts digits of bfloat16 off
SEEDS = [0x7EDC_BA98_7654_3210, -5]
Interpreted = Callable[..., tuple[Any, ...]]


def normals(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shapes[0]))
    return [2 * torch.randn(shape, generator=generator) for shape in shapes]


def mask(shape: tuple[int, ...], seed: Tensor, p: float) -> Tensor:
    """What the kernels on a CPU multiply with; gelu(30) is 30."""
    return pointwise_cpu.gelu(torch.full(shape, 30.0), seed, p).double() / 30.0


def call(interpreted: Interpreted, function: str, *operands: Any, single: bool = False) -> Any:
    results = interpreted(MODULE, function, operands, {"programs": 4})
    return torch.stack(results) if single else results


def close(actual: Tensor, expected: Tensor, tolerance: float = 3e-7) -> bool:
    """Also where the mask left nothing."""
    return bool((actual.double() - expected).norm() <= tolerance * (expected.norm() + 1e-30))


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gelu_and_its_gradient_under_the_cpus_mask(
    interpreted: Interpreted, shape: tuple[int, ...], p: float
) -> None:
    y, grad = normals(shape, shape)
    for seed in map(torch.tensor, ([SEEDS[0]], [SEEDS[1]])):
        out = call(interpreted, "gelu", y, seed, p, single=True)
        grad_y = call(interpreted, "gelu_backward", y, grad, seed, p, single=True)
        wide = y.double().requires_grad_()
        expected = F.gelu(wide) * mask(shape, seed, p)
        assert close(out, expected.detach())
        assert close(grad_y, *torch.autograd.grad(expected, wide, grad.double()))


@pytest.mark.parametrize("p", [0.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gate_and_its_gradients_under_the_cpus_mask(
    interpreted: Interpreted, shape: tuple[int, ...], p: float
) -> None:
    x, a, b, grad = normals(*[shape] * 4)
    seed = torch.tensor([SEEDS[0]])
    wide = [value.double().requires_grad_() for value in (a, b)]
    expected = x.double() + wide[0] * torch.sigmoid(wide[1]) * mask(shape, seed, p)
    assert close(call(interpreted, "gate", x, a, b, seed, p, single=True), expected.detach())
    found = call(interpreted, "gate_backward", a, b, grad, seed, p)
    for actual, reference in zip(found, torch.autograd.grad(expected, wide, grad.double()), strict=True):
        assert close(actual, reference)


@pytest.mark.parametrize("p", [0.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gated_unit_and_its_gradients_under_the_cpus_mask(
    interpreted: Interpreted, shape: tuple[int, ...], p: float
) -> None:
    twice = (*shape[:-1], 2 * shape[-1])
    x, grad, both, bias = normals(shape, shape, twice, twice[-1:])
    seed = torch.tensor([SEEDS[1]])
    wide = [value.double().requires_grad_() for value in (both, bias)]
    a, b = (wide[0] + wide[1]).chunk(2, dim=-1)
    expected = x.double() + a * torch.sigmoid(b) * mask(shape, seed, p)
    assert close(call(interpreted, "glu", x, both, bias, seed, p, single=True), expected.detach())
    found = call(interpreted, "glu_backward", both, bias, grad, seed, p)
    for actual, reference in zip(found, torch.autograd.grad(expected, wide, grad.double()), strict=True):
        assert close(actual, reference, 1e-6)  # the bias' is a sum over rows


def test_half_precision_and_strided_operands(interpreted: Interpreted) -> None:
    """Operands in bfloat16, residual in float32, as under autocast; each result in its operand's type."""
    x, grad, both, bias = normals((33, 6), (33, 6), (12, 33), (12,))
    both, seed = both.bfloat16().mT, torch.tensor([SEEDS[0]])
    a, b = (both.double() + bias.double()).chunk(2, dim=-1)
    kept, opened = mask((33, 6), seed, 0.5), torch.sigmoid(b)
    out = call(interpreted, "glu", x, both, bias, seed, 0.5, single=True)
    assert out.dtype == torch.float32
    assert close(out, x.double() + a * opened * kept)
    grad_both, grad_bias = call(interpreted, "glu_backward", both, bias, grad, seed, 0.5)
    passed = grad.double() * kept
    expected = torch.cat((passed * opened, passed * a * opened * (1 - opened)), dim=-1)
    assert (grad_both.dtype, grad_bias.dtype) == (torch.bfloat16, torch.float32)
    assert close(grad_both, expected, HALF)
    assert close(grad_bias, expected.sum(0), 1e-6)
    hidden = call(interpreted, "gelu", both, seed, 0.5, single=True)
    assert hidden.dtype == torch.bfloat16
    assert close(hidden, F.gelu(both.double()) * mask((33, 12), seed, 0.5), HALF)
    rounded = call(interpreted, "gelu", grad, seed, 0.5, True, single=True)
    assert rounded.dtype == torch.bfloat16
    assert close(rounded, F.gelu(grad.double()) * mask((33, 6), seed, 0.5), HALF)


def test_extreme_values_stay_finite_and_right(interpreted: Interpreted) -> None:
    y = torch.tensor([-1e30, -100.0, -20.0, 0.0, 1e-30, 20.0, 100.0, 1e30])
    seed = torch.zeros(1, dtype=torch.int64)
    assert torch.allclose(call(interpreted, "gelu", y, seed, 0.0, single=True), F.gelu(y), atol=1e-6)
    slope = call(interpreted, "gelu_backward", y, torch.ones(8), seed, 0.0, single=True)
    assert torch.allclose(slope, torch.tensor([0.0, 0, 0, 0.5, 0.5, 1, 1, 1]), atol=1e-6)
    gated = call(interpreted, "gate", torch.zeros(8), torch.ones(8), y, seed, 0.0, single=True)
    assert torch.allclose(gated, torch.sigmoid(y), atol=1e-6)


@pytest.mark.parametrize("has_triton", [False, True])
def test_cuda_tensors_go_to_triton_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, has_triton: bool
) -> None:
    monkeypatch.setattr(card, "HAS_TRITON", has_triton)
    with FakeTensorMode():
        for dtype, served in ((torch.float32, True), (torch.bfloat16, True), (torch.float64, False)):
            asked = torch.empty(1 << 13, 1 << 10, device="cuda", dtype=dtype)
            assert pointwise_ops.serves(asked) == (has_triton and served)
            few = torch.empty(3, 4, device="cuda", dtype=dtype)
            assert not pointwise_ops.serves(few)  # a launch costs more than it saves
    assert pointwise_ops.serves(torch.empty(1))
    assert not pointwise_ops.serves(torch.empty(1, dtype=torch.bfloat16))


@pytest.mark.parametrize("channels", [8, 64])
def test_cuda_tensors_are_traced_without_a_device(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton has no wheels for this platform")
    monkeypatch.setattr(tiles, "WORTH_A_LAUNCH", 0)
    half: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    with FakeTensorMode():
        x = torch.empty(2, 9, channels, device="cuda")
        weight, bias = (torch.empty(2 * channels, *more, **half) for more in ((5,), ()))
        out = glu_dropout_residual(x, torch.empty(2, 9, 5, **half), weight, bias, 0.5)
        seed = torch.empty(1, dtype=torch.int64, device="cuda")
        both = torch.empty(2, 9, 2 * channels, **half)
        grads = pointwise_ops.glu_backward_op(both, bias, out, seed, 0.5)
    assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)
    for grad, operand in zip(grads, (both, bias), strict=True):
        assert (grad.shape, grad.dtype) == (operand.shape, operand.dtype)


@pytest.mark.parametrize("shape", [(51200, 512), (39200, 8), (7, 130), (1, 1), (100, 1024), (3, 70_000)])
@pytest.mark.parametrize("programs", [None, 1056])
def test_tiles_cover_the_matrix_once(shape: tuple[int, int], programs: int | None) -> None:
    (M, H), cut = shape, tiles.Tiles.of(*shape, programs)
    assert cut.columns * cut.blocks >= H > cut.columns * (cut.blocks - 1)
    assert cut.steps * cut.parts >= M > cut.steps * (cut.parts - 1)
    assert cut.steps % cut.rows == 0
    if programs is not None:
        assert cut.parts * cut.blocks <= max(programs, cut.blocks)
