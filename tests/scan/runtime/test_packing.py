"""Weights packed once for many products, against products that lay them out themselves."""

import pytest
import torch
from torch import Tensor

from compressm.scan import lti_scan
from compressm.scan.lti import cpu
from compressm.scan.runtime import packing
from compressm.scan.runtime.packing import Weights, packed_weights

packs = pytest.mark.skipif(
    packed_weights(64, Weights(torch.zeros(512, 512), 512, 512, turned=False)) == [None],
    reason="nothing is packed here: PyTorch without MKL, or a processor for which it was not measured",
)


def test_small_weights_and_other_types_are_left() -> None:
    few, double = torch.zeros(64, 64), torch.zeros(1024, 512, dtype=torch.float64)
    given = Weights(few, 64, 64, turned=False), Weights(double, 1024, 512, turned=False)
    assert packed_weights(100, *given) == [None, None]


def test_processors_that_were_not_measured_pack_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    llvm = pytest.importorskip("llvmlite.binding")
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "znver4")
    packing._processor_packs.cache_clear()
    try:
        assert packed_weights(64, Weights(torch.zeros(512, 512), 512, 512, turned=False)) == [None]
    finally:
        packing._processor_packs.cache_clear()


def scan(u: Tensor, lam: Tensor, *matrices: Tensor, form: str) -> list[Tensor]:
    """Outputs and all gradients."""
    given = [x.clone().requires_grad_() for x in (u, lam, *matrices)]
    y, last = lti_scan(*given, form=form)
    weight = torch.linspace(-1, 1, y.shape[-1], dtype=y.dtype)
    return [y, last, *torch.autograd.grad((y * weight).sum() + last.square().sum(), given)]


@packs
def test_where_a_worker_has_one_piece_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "packed_weights", lambda *_: pytest.fail("packed for one product"))
    lti_scan(torch.randn(2, 200, 448), torch.rand(2, 300), torch.randn(2, 300, 448), torch.randn(2, 448, 300))


@packs
@pytest.mark.parametrize(
    ("L", "N"),
    [
        (900, 300),
        (901, 301),  # the last piece is shorter than what weights are packed for
        (400, 1200),  # states are not kept
    ],
)
def test_a_recurrence_with_large_weights(L: int, N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Tensor | None] = []

    def packing_too(rows: int, *weights: Weights) -> list[Tensor | None]:
        packed.extend(packed_weights(rows, *weights))
        return packed[-len(weights) :]

    monkeypatch.setattr(cpu, "packed_weights", packing_too)
    generator = torch.Generator().manual_seed(N + L)
    u = torch.randn(2, L, 448, generator=generator)
    radius, angle = 0.9 + 0.09 * torch.rand(N, generator=generator), 6 * torch.rand(N, generator=generator)
    lam = radius * torch.stack((angle.cos(), angle.sin()))
    B, C = (torch.randn(shape, generator=generator) / 30 for shape in ((2, N, 448), (2, 448, N)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = scan(u, lam, B, C, form="scan")
    finally:
        torch.set_num_threads(before)
    assert len(packed) == 4
    assert None not in packed
    expected = scan(u.double(), lam.double(), B.double(), C.double(), form="reference")
    for value, exact in zip(found, expected, strict=True):
        assert torch.dist(value.detach().double(), exact.detach()) < 3e-6 * exact.detach().norm()
