"""Operands that do not fit are refused by name, value and remedy."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compressm.scan.short_convolution import short_convolution


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("x", torch.ones(9, 6), ValueError, r"x must be \(batch, L, channels\).*\(9, 6\).*x\[None\]"),
        ("x", torch.ones(2, 0, 6), ValueError, r"all at least 1, got \(2, 0, 6\)"),
        ("x", torch.ones(2, 9, 6, dtype=torch.int64), TypeError, r"x must be real and floating.*int64"),
        ("weight", torch.ones(6, 4), ValueError, r"weight must be .* = \(6, 1, K\).*got \(6, 4\)"),
        ("weight", torch.ones(5, 1, 4), ValueError, r"got \(5, 1, 4\)"),
        ("weight", torch.ones(6, 1, 0), ValueError, r"K >= 1"),
        (
            "weight",
            torch.ones(6, 1, 4).double(),
            TypeError,
            r"weight is torch.float64 but x is torch.float32",
        ),
        ("bias", torch.ones(7), ValueError, r"bias must be \(6,\).*got \(7,\)"),
        ("window", torch.ones(2, 3, 6), ValueError, r"window must be \(2, 6, 3\).*got \(2, 3, 6\)"),
        ("window", torch.ones(2, 6, 3, device="meta"), ValueError, r"window is on meta but x is on cpu"),
    ],
)
def test_operands_that_do_not_fit(
    oracle: SimpleNamespace, name: str, value: Tensor, error: type[Exception], message: str
) -> None:
    made = oracle.operands(2, 9, 6, 4)
    with pytest.raises(error, match=message):
        short_convolution(**made | {name: value})


def test_forms_that_do_not_serve(oracle: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"form='fast' is not known; choose one of auto, kernel, reference"):
        short_convolution(**oracle.operands(2, 9, 6, 4), form="fast")
    with pytest.raises(ValueError, match=r"serves float32 and bfloat16 on the CPU, but x is torch.float64"):
        short_convolution(**oracle.operands(2, 9, 6, 4, torch.float64), form="kernel")
