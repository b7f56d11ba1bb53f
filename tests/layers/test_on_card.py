"""Layers under autocast on a CUDA device, with the card's kernels replaced by plain PyTorch on a CPU."""

import contextlib
import importlib
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from compressm.layers import LRU, Mamba, modal
from compressm.scan import lti, selective
from compressm.scan.lti import ops, portable


def advance(x: Tensor, lam: Tensor, initial: Tensor, *, reverse: bool) -> Tensor:
    """States in place of their inputs; rounded to x's type where they are kept, and nowhere else."""
    states = portable.advance(x.to(lam.dtype), lam, initial, reverse=reverse)
    x.copy_(states)
    return states[:, 0 if reverse else -1]


def adjoint(
    g: Tensor, x: Tensor, lam: Tensor, initial: Tensor, grad_final: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    states, conjugate = x.to(lam.dtype), torch.stack((lam[0], -lam[1]))
    g[:, 0 if reverse else -1] += grad_final.to(g.dtype)
    w = portable.advance(g.to(lam.dtype), conjugate, None, reverse=not reverse)
    g.copy_(w)
    pairs = (states[:, 1:], initial[:, None]) if reverse else (initial[:, None], states[:, :-1])
    (a, b), (c, d) = torch.cat(pairs, dim=1).unbind(2), w.unbind(2)
    slopes = torch.stack(((a * c + b * d).sum((0, 1)), (a * d - b * c).sum((0, 1))))
    first = w[:, -1 if reverse else 0]
    back = torch.stack(
        (lam[0] * first[:, 0] + lam[1] * first[:, 1], lam[0] * first[:, 1] - lam[1] * first[:, 0]), dim=1
    )
    return slopes, back


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU are served by the module of the card's recurrence."""
    pytest.importorskip("triton", reason="Triton has no wheels for this platform")
    module = importlib.import_module("compressm.scan.lti.triton")
    for name, function in (("advance", advance), ("adjoint", adjoint)):
        monkeypatch.setattr(module, name, function)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(ops, "_kernels", lambda _: module)
    for user in (lti, modal):
        monkeypatch.setattr(user, "on_card", lambda _: True)


class SelectiveKernels:
    """Kernels of the selective recurrence that take rows of any type: those of a CPU, between casts."""

    asked: ClassVar[list[torch.dtype]] = []

    @classmethod
    def scan_forward(cls, *given: Tensor | None, **options: bool) -> tuple[Tensor, ...]:
        u, *_ = rows = [x for x in (given[i] for i in (0, 1, 3, 4, 6)) if x is not None]
        cls.asked = [x.dtype for x in rows]
        y, *rest = selective.cpu.scan_forward(*map(wide, given), **options)
        return y.to(u.dtype), *rest

    @staticmethod
    def scan_backward(*given: Tensor | None, **options: bool) -> tuple[Tensor, ...]:
        *grads, grad_state = selective.cpu.scan_backward(*map(wide, given), **options)
        operands = given[2:-2]
        pairs = zip(grads, operands, strict=True)
        return *(grad if x is None else grad.to(x.dtype) for grad, x in pairs), grad_state


def wide(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().float()


@pytest.mark.parametrize("half", ["autocast", "parameters"])
def test_mamba_gives_rows_in_half_precision_to_the_recurrence(
    monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    torch.manual_seed(0)
    layer, u, weight = Mamba(8, 4), torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    y, _ = layer(u)
    wanted = [y, *torch.autograd.grad((y * weight).sum(), list(layer.parameters()))]
    for name in ("on_card", "served"):
        for module in (selective, selective.arguments):
            monkeypatch.setattr(module, name, lambda _: True)
    monkeypatch.setattr(selective.ops, "_kernels", lambda _: SelectiveKernels)
    # The inner part as one node is the CPU's.
    monkeypatch.setattr(Mamba, "_inner_operands", lambda *_: None)
    if half == "parameters":
        layer, u = layer.bfloat16(), u.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        y, _ = layer(u)
    assert SelectiveKernels.asked == [torch.bfloat16] * 5
    assert y.dtype == torch.bfloat16
    found = [y, *torch.autograd.grad((y * weight).sum(), list(layer.parameters()))]
    for a, b, parameter in zip(found[1:], wanted[1:], layer.parameters(), strict=True):
        assert a.dtype == parameter.dtype
        assert 1e-5 < (a.float() - b).norm() / b.norm() < 5e-2


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_under_autocast_keeps_rows_in_half_precision(bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer = LRU(lti.HALF_CHANNELS, 13, bidirectional=bidirectional)
    u = torch.randn(2, 40, lti.HALF_CHANNELS, requires_grad=True)
    weight = torch.randn(2, 40, lti.HALF_CHANNELS)
    inputs = (u, *layer.parameters())
    y, _ = layer(u)
    wanted = [y, *torch.autograd.grad((y * weight).sum(), inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        y, last = layer(u)
    found = [y, *torch.autograd.grad((y * weight).sum(), inputs)]
    assert last.dtype == torch.float32
    assert [x.dtype for x in found[1:]] == [x.dtype for x in inputs]
    for a, b in zip(found, wanted, strict=True):
        assert 1e-5 < (a.float() - b).norm() / b.norm() < 3e-2


@pytest.mark.usefixtures("card")
def test_inputs_may_come_in_half_precision_and_few_channels_stay_exact() -> None:
    torch.manual_seed(0)
    many, few = lti.HALF_CHANNELS, 3
    for channels in (many, few):
        layer, u = LRU(channels, 5), torch.randn(2, 9, channels)
        lam, B, C = layer.eigenvalues(), layer.input_matrix(), layer.output_matrix()
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = lti.lti_scan(u, lam, B, C, form="scan")
            rounded, _ = lti.lti_scan(u.bfloat16(), lam, B, C, form="scan")
        assert y.dtype == (torch.bfloat16 if channels == many else torch.float32)
        assert torch.equal(y, rounded) == (channels == many)
    with pytest.raises(TypeError, match="u must be float32 or float64"):
        lti.lti_scan(u.bfloat16(), lam, B, C)
