"""Wrong operands are refused with the argument, its value and the remedy."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compressm.scan.selective import selective_scan


def wrong(name: str, value: Any, error: type[Exception], message: str) -> Any:
    return pytest.param(name, value, error, message, id=f"{name}: {message[:30]}")


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        wrong("u", torch.zeros(7, 3), ValueError, "u must be (batch, L, d), all at least 1, got (7, 3)"),
        wrong("u", torch.zeros(2, 0, 3), ValueError, "got (2, 0, 3); a single sequence is u[None]"),
        wrong("u", torch.zeros(2, 7, 3).long(), TypeError, "u must be float32 or float64, got torch.int64"),
        wrong("u", torch.zeros(2, 7, 3).bfloat16(), TypeError, "use torch.autocast"),
        wrong("u", [[[1.0]]], TypeError, "u must be a tensor, got list"),
        wrong("delta", torch.zeros(2, 7, 1), ValueError, "delta must be (batch, L, d) = (2, 7, 3) to fit"),
        wrong("delta", torch.zeros(2, 3, 7), ValueError, "got (2, 3, 7)"),
        wrong("A", -torch.ones(4, 3), ValueError, "A must be (d, N) = (3, N) with N >= 1 to fit u, got"),
        wrong("A", torch.zeros(3, 4, dtype=torch.complex64), TypeError, "A must be real"),
        wrong("A", torch.ones(3, 4), ValueError, "A must not be positive, but its largest entry is 1; pass"),
        wrong("B", torch.zeros(2, 7, 3), ValueError, "B must be (batch, L, N) = (2, 7, 4)"),
        wrong("B", torch.zeros(2, 7, 4).double(), TypeError, "B is torch.float64 but u is torch.float32"),
        wrong("C", torch.zeros(7, 4), ValueError, "C must be (batch, L, N) = (2, 7, 4)"),
        wrong("C", torch.zeros(2, 7, 4, device="meta"), ValueError, "C is on meta but u is on cpu"),
        wrong("D", torch.zeros(4), ValueError, "D must be (d,) = (3,)"),
        wrong("z", torch.zeros(2, 7, 4), ValueError, "z must be (batch, L, d) = (2, 7, 3)"),
        wrong("delta_bias", torch.zeros(1), ValueError, "delta_bias must be (d,) = (3,)"),
        wrong("state", torch.zeros(2, 4, 3), ValueError, "state must be (batch, d, N) = (2, 3, 4)"),
    ],
)
@pytest.mark.parametrize("form", ["auto", "reference"])
def test_a_wrong_operand_is_named(
    oracle: SimpleNamespace, form: str, name: str, value: Any, error: type[Exception], message: str
) -> None:
    given = oracle.operands(2, 7, 3, 4, torch.float32) | {name: value}
    with pytest.raises(error, match=re.escape(message)):
        selective_scan(**given, form=form)


def test_a_form_that_cannot_serve_is_named(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 7, 3, 4, torch.float64)
    with pytest.raises(ValueError, match="form='fast' is not known; choose one of auto, reference, scan"):
        selective_scan(**given, form="fast")
    with pytest.raises(ValueError, match=r"form='scan' serves float32 on the CPU, but u is torch\.float64"):
        selective_scan(**given, form="scan")
