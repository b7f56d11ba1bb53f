"""Layers under autocast on a CUDA device, with the card's kernels replaced by plain PyTorch on a CPU."""

import contextlib
import importlib

import pytest
import torch
from torch import Tensor

from compressm.layers import LRU
from compressm.scan import lti
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
    monkeypatch.setattr(lti, "on_card", lambda _: True)


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
