"""Products with operands in bfloat16 around a recurrence in float32, under autocast."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compressm.scan import lti_scan
from compressm.scan.lti import HALF_CHANNELS, cpu

needs_bfloat16 = pytest.mark.skipif(
    not cpu.can_halve(torch.float32), reason="this processor does not multiply numbers in bfloat16"
)


def run(given: dict[str, Tensor], *, half: bool, reverse: bool = False) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y, final = lti_scan(**given, form="scan", reverse=reverse)
    generator = torch.Generator().manual_seed(1)
    loss = (y * torch.randn(y.shape, generator=generator)).sum() + final.sum()
    grads = torch.autograd.grad(loss, list(given.values()))
    return {"y": y.detach(), "final": final.detach(), **dict(zip(given, grads, strict=True))}


@needs_bfloat16
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(2, 33, HALF_CHANNELS, 3, 40), (4, 700, HALF_CHANNELS, 70, 96)])
@pytest.mark.parametrize("keep", ["states", "checkpoints"])
def test_only_the_operands_of_products_are_rounded(
    oracle: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int, int, int],
    keep: str,
    reverse: bool,
) -> None:
    monkeypatch.setattr("compressm.scan.lti.what_to_keep", lambda _: keep)
    given = oracle.operands(*shape, torch.float32)
    exact, rounded = (run(given, half=half, reverse=reverse) for half in (False, True))
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        error = float((rounded[name] - value).norm() / value.norm())
        # bfloat16 has 8 bits: 2^-9 for each rounding; more than nothing shows that there was one.
        assert 1e-5 < error < 1.5e-2, name


@needs_bfloat16
def test_numbers_are_rounded_to_nearest_even() -> None:
    """With states that are the inputs themselves (lambda = 0), all roundings can be redone by PyTorch."""
    batch, L, H, N = 2, 5, HALF_CHANNELS, HALF_CHANNELS
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(batch, L, H, generator=generator)
    B, C = torch.zeros(2, N, H), torch.zeros(2, H, N)
    B[0], C[0] = torch.eye(N), torch.eye(N)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = lti_scan(u, torch.zeros(2, N), B, C, form="scan")
    assert torch.equal(y, u.bfloat16().float())


def test_few_channels_other_types_and_other_processors_stay_exact(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = oracle.operands(2, 9, HALF_CHANNELS - 1, 3, 5, torch.float32)
    assert torch.equal(run(few, half=True)["y"], run(few, half=False)["y"])
    monkeypatch.setattr(cpu, "processor_has", lambda _: False)
    many = oracle.operands(2, 9, HALF_CHANNELS, 3, 5, torch.float32)
    assert torch.equal(run(many, half=True)["y"], run(many, half=False)["y"])
    assert not cpu.can_halve(torch.float64)


@pytest.mark.parametrize("form", ["scan", "convolution", "auto"])
def test_without_the_final_state_the_rest_is_the_same(oracle: SimpleNamespace, form: str) -> None:
    given = oracle.operands(2, 12, 3, 4, 5, torch.float64)
    y, _ = lti_scan(**given, form=form)
    alone, _ = lti_scan(**given, form=form, final=False)
    assert torch.equal(y, alone)
    one, two = (torch.autograd.grad(out.square().sum(), list(given.values())) for out in (y, alone))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)
