"""Wrong operands are refused with the argument, its value and the remedy."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compressm.scan import lti_scan


def wrong(name: str, value: Any, error: type[Exception], message: str) -> Any:
    return pytest.param(name, value, error, message, id=f"{name}: {message[:30]}")


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        wrong("u", torch.zeros(7, 3), ValueError, "u must be (batch, L, H)"),
        wrong("u", torch.zeros(2, 0, 3), ValueError, "L >= 1, got (2, 0, 3)"),
        wrong("u", torch.zeros(2, 7, 3).long(), TypeError, "u must be float32 or float64, got torch.int64"),
        wrong("u", torch.zeros(2, 7, 3).bfloat16(), TypeError, "use torch.autocast"),
        wrong("u", [[[1.0]]], TypeError, "u must be a tensor, got list"),
        wrong("lam", torch.zeros(4), ValueError, "lam must be (2, N)"),
        wrong("lam", torch.zeros(4, 2), ValueError, "real and imaginary parts of lambda, got (4, 2)"),
        wrong("B", torch.zeros(2, 3, 4), ValueError, "B must be (2, N, H) = (2, 4, 3) to fit"),
        wrong("B", torch.zeros(2, 4, 3).double(), TypeError, "B is torch.float64 but u is torch.float32"),
        wrong("B", torch.zeros(2, 4, 3, dtype=torch.complex64), TypeError, "pass (real, imaginary) pairs"),
        wrong("C", torch.zeros(2, 5, 3), ValueError, "C must be (2, P, N) = (2, 5, 4)"),
        wrong("C", torch.zeros(5, 4), ValueError, "C must be (2, P, N) = (2, P, 4)"),
        wrong("C", torch.zeros(2, 5, 4, device="meta"), ValueError, "C is on meta but u is on cpu"),
        wrong("state", torch.zeros(1, 2, 4), ValueError, "state must be (batch, 2, N) = (2, 2, 4)"),
    ],
)
def test_a_wrong_operand_is_named(
    oracle: SimpleNamespace, name: str, value: Any, error: type[Exception], message: str
) -> None:
    given = oracle.operands(2, 7, 3, 5, 4, torch.float32) | {name: value}
    with pytest.raises(error, match=re.escape(message)):
        lti_scan(**given)


def test_an_unknown_form_is_named(oracle: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="form='fft' is not known; choose one of auto, reference, conv"):
        lti_scan(**oracle.operands(2, 7, 3, 5, 4, torch.float32), form="fft")
