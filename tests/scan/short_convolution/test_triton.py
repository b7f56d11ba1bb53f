"""Triton's kernels compute the definition, and its gradients; interpreted, they need no graphics card."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from compressm.scan.runtime import card
from compressm.scan.short_convolution import arguments, ops

MODULE = "compressm.scan.short_convolution.triton"
SETTINGS = {"_FORWARD": {"ROWS": 4, "COLUMNS": 32}, "_BACKWARD": {"STEPS": 4}}
NAMES = ("x", "weight", "bias", "window")
CASES = {  # batch, L, channels, K
    "tiles, the last short": (2, 11, 40, 4),
    "fewer steps than the filter": (1, 2, 3, 5),
    "two taps, whole tiles": (1, 8, 5, 2),
    "no past": (2, 5, 3, 1),
}
Interpreted = Callable[..., tuple[Any, ...]]


def found(interpreted: Interpreted, given: dict[str, Tensor], through: str, silu: bool) -> dict[str, Tensor]:
    """What the oracle's ``results`` finds, with the same weights."""
    operands = tuple(given[name].detach() if name in given else None for name in NAMES)
    y, final = interpreted(MODULE, "convolve", operands, SETTINGS, silu=silu)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)]
    ends = (None if through == "final" else weights[0], None if through == "y" else weights[1])
    grads = interpreted(MODULE, "convolve_backward", (*ends, *operands), SETTINGS, silu=silu)
    named = dict(zip(NAMES, grads, strict=True))
    return {"y": y, "final": final} | {f"grad_{name}": named[name] for name in given}


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_outputs_and_every_gradient_match_the_definition(
    oracle: SimpleNamespace, interpreted: Interpreted, shape: tuple[int, ...], silu: bool
) -> None:
    for optional, through in ((("bias", "window"), "both"), ((), "y"), (("bias",), "both"), ((), "final")):
        if through == "final" and shape[3] == 1:
            continue  # it is empty
        given = oracle.operands(*shape, given=optional)
        wanted = oracle.results(oracle.naive, oracle.wide(given), through=through, silu=silu)
        wrong = {
            name: error
            for name, error in oracle.errors(found(interpreted, given, through, silu), wanted).items()
            if not error <= 2e-6
        }
        assert not wrong, (optional, through, wrong)


def test_rows_may_be_rounded_and_parts_of_longer_ones(
    oracle: SimpleNamespace, interpreted: Interpreted
) -> None:
    given = oracle.operands(2, 9, 12, 4, given=("bias",))
    given["x"] = given["x"].detach().bfloat16().float().requires_grad_()
    wanted = oracle.results(oracle.naive, oracle.wide(given), through="y", silu=True)
    whole = torch.cat((torch.full_like(given["x"], torch.nan), given["x"]), dim=2).detach().bfloat16()
    made = found(interpreted, given | {"x": whole.chunk(2, dim=2)[1]}, "y", True)
    assert (made["y"].dtype, made["grad_x"].dtype) == (torch.bfloat16, torch.bfloat16)
    assert (made["grad_weight"].dtype, made["grad_bias"].dtype) == (torch.float32, torch.float32)
    assert max(oracle.errors(made, wanted).values()) < 2e-2


def test_cuda_tensors_go_to_triton_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        asked = SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype)
        for installed in (False, True):
            monkeypatch.setattr(card, "HAS_TRITON", installed)
            assert arguments.served(asked) == installed
    assert not arguments.served(SimpleNamespace(device=asked.device, dtype=torch.float16))


def test_cuda_tensors_are_traced_without_a_device() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 9, 3, device="cuda", dtype=torch.bfloat16)
        weight, bias = torch.empty(3, 1, 4, device="cuda"), torch.empty(3, device="cuda")
        y, final = ops.short_convolution_op(x, weight, bias, None, True)
        grads = ops.short_convolution_backward_op(y, None, x, weight, bias, None, True)
    assert [tuple(value.shape) for value in (y, final, *grads)] == [
        (2, 9, 3), (2, 3, 3), (2, 9, 3), (3, 1, 4), (3,), (0,)
    ]  # fmt: skip
    assert [value.dtype for value in (y, *grads[:3])] == [torch.bfloat16] * 2 + [torch.float32] * 2
