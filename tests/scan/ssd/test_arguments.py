"""Wrong operands are refused with the argument, its value and the remedy."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compressm.scan.ssd import linear_attention_scan


def wrong(name: str, value: Any, error: type[Exception], message: str) -> Any:
    return pytest.param(name, value, error, message, id=f"{name}: {message[:30]}")


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        wrong("q", torch.zeros(7, 2, 3), ValueError, "q must be (batch, L, heads, K), all at least 1, got"),
        wrong("q", torch.zeros(2, 0, 2, 3), ValueError, "got (2, 0, 2, 3)"),
        wrong("q", torch.zeros(2, 7, 2, 3).long(), TypeError, "q must be float32 or float64, got"),
        wrong("q", torch.zeros(2, 7, 2, 3).bfloat16(), TypeError, "use torch.autocast"),
        wrong("q", [[[[1.0]]]], TypeError, "q must be a tensor, got list"),
        wrong("k", torch.zeros(2, 7, 2, 4), ValueError, "k must be (batch, L, heads, K) = (2, 7, 2, 3)"),
        wrong("v", torch.zeros(2, 7, 3, 4), ValueError, "v must be (batch, L, heads, V) = (2, 7, 2, V)"),
        wrong("v", torch.zeros(2, 7, 2, 4).double(), TypeError, "v is torch.float64 but q is torch.float32"),
        wrong("log_decay", torch.zeros(2, 7, 3), ValueError, "must be (batch, L, heads) = (2, 7, 2)"),
        wrong("log_decay", torch.zeros(2, 7, 2, 4), ValueError, "or (batch, L, heads, K) = (2, 7, 2, 3)"),
        wrong("log_decay", torch.full((2, 7, 2), 0.5), ValueError, "but its largest entry is 0.5; pass"),
        wrong("state", torch.zeros(2, 2, 4, 3), ValueError, "must be (batch, heads, K, V) = (2, 2, 3, 4)"),
        wrong("state", torch.zeros(2, 2, 3, 4, device="meta"), ValueError, "is on meta but q is on cpu"),
    ],
)
def test_a_wrong_operand_is_named(
    oracle: SimpleNamespace, name: str, value: Any, error: type[Exception], message: str
) -> None:
    given = oracle.operands(2, 7, 2, 3, 4, torch.float32, per_channel=False) | {name: value}
    with pytest.raises(error, match=re.escape(message)):
        linear_attention_scan(**given)


def test_wrong_options_are_named(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 7, 2, 3, 4, torch.float32, per_channel=False)
    with pytest.raises(
        ValueError, match="form='fast' is not known; choose one of auto, chunked, recurrent, reference"
    ):
        linear_attention_scan(**given, form="fast")
    for size in (0, 48):
        with pytest.raises(ValueError, match=f"chunk_size={size} is not a power of two, such as 32"):
            linear_attention_scan(**given, chunk_size=size)


def test_the_kernels_are_asked_only_for_what_they_serve(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 7, 2, 3, 4, torch.float32, per_channel=False)
    with pytest.raises(ValueError, match=r"'triton' serves float32 .* but q is torch.float32 on cpu; take"):
        linear_attention_scan(**given, form="triton")
    with pytest.raises(ValueError, match=r"chunk_size=16 is for form='chunked'; form='recurrent' has chunks"):
        linear_attention_scan(**given, form="recurrent", chunk_size=16)
    wide = {name: value.detach().double() for name, value in given.items()}
    with pytest.raises(ValueError, match=r"'recurrent' serves float32 on the CPU, but q is torch.float64 on"):
        linear_attention_scan(**wide, form="recurrent")


def test_a_positive_logarithm_is_found_beside_what_is_no_number(oracle: SimpleNamespace) -> None:
    given = oracle.operands(2, 7, 2, 3, 4, torch.float32, per_channel=False)
    given["log_decay"].data[0, :2, 0] = torch.tensor([torch.nan, 0.5])
    with pytest.raises(ValueError, match=r"must not be positive, but its largest entry is 0.5;"):
        linear_attention_scan(**given)
