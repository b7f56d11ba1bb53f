"""A direct path from inputs to outputs, in every form, beside the definition."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compressm.scan import lti_scan
from compressm.scan.lti import HALF_CHANNELS, cpu, pieces
from compressm.scan.runtime import gemm_addresses

SHAPES = {  # batch, L, H, P = H, N
    "few channels": (3, 21, 5, 5, 7),
    "many channels": (4, 37, 40, 40, 9),
    "one sequence": (1, 50, 34, 34, 5),
}


def given_of(oracle: SimpleNamespace, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    D = torch.randn(shape[2], generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return oracle.operands(*shape, dtype) | {"D": D.to(dtype).requires_grad_()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("form", ["reference", "convolution", "scan"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_outputs_and_every_gradient_match_the_definition(
    oracle: SimpleNamespace, form: str, dtype: torch.dtype, shape: tuple[int, ...], reverse: bool
) -> None:
    def naive(D: Tensor, **operands: Tensor) -> tuple[Tensor, Tensor]:
        y, final = oracle.naive(**operands, reverse=reverse)
        return y + D.double() * operands["u"].double(), final

    given = given_of(oracle, shape, dtype)
    for through in ("both", "y", "final"):
        wanted = oracle.gradients(naive, given, through=through)
        found = oracle.gradients(lti_scan, given, through=through, reverse=reverse, form=form)
        limit = 5e-6 if dtype == torch.float32 else 1e-13
        wrong = {k: e for k, e in oracle.errors(found, wanted).items() if not e <= limit}
        assert not wrong, (through, wrong)


@pytest.mark.parametrize("keep", ["states", "checkpoints"])
@pytest.mark.parametrize("rows", [3, 40, 1000], ids="{} rows".format)
@pytest.mark.parametrize("shared", ["batch", "piece"])
def test_it_is_added_piece_by_piece_or_afterwards(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, keep: str, rows: int, shared: str
) -> None:
    if shared == "batch" and gemm_addresses() is None:
        pytest.skip("this PyTorch has no MKL whose products a kernel could call")
    given = given_of(oracle, (5, 19, 4, 4, 17), torch.float64)
    wanted = oracle.gradients(lti_scan, given, form="reference")
    monkeypatch.setattr(pieces, "PIECE_BYTES", rows * 2 * 17 * 8)
    monkeypatch.setattr(cpu, "workers_share_the_batch", lambda _: shared == "batch")
    monkeypatch.setattr("compressm.scan.lti.what_to_keep", lambda *_: keep)
    errors = oracle.errors(oracle.gradients(lti_scan, given, form="scan"), wanted)
    assert max(errors.values()) < 1e-13


def test_under_autocast_it_is_not_rounded(oracle: SimpleNamespace) -> None:
    given = given_of(oracle, (2, 9, HALF_CHANNELS, HALF_CHANNELS, 3), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        alone, _ = lti_scan(**{name: x for name, x in given.items() if name != "D"}, form="scan")
        y, _ = lti_scan(**given, form="scan")
    torch.testing.assert_close(y, alone + given["D"] * given["u"])


@pytest.mark.parametrize(
    ("D", "P", "message"),
    [
        (torch.ones(3), 5, "D takes each of H = 3 inputs to its own output, but C makes P = 5 outputs"),
        (torch.ones(4), 3, "D must be (H,) = (3,) to fit u and lam, got (4,)"),
        (torch.ones(3).double(), 3, "D is torch.float64 but u is torch.float32"),
    ],
)
def test_a_wrong_one_is_named(oracle: SimpleNamespace, D: Tensor, P: int, message: str) -> None:
    error = TypeError if D.dtype == torch.float64 else ValueError
    with pytest.raises(error, match=re.escape(message)):
        lti_scan(**oracle.operands(2, 7, 3, P, 4, torch.float32), D=D)
