"""Triton's kernels compute the definition, and its gradients; interpreted, they need no graphics card."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from compressm.scan.runtime import card
from compressm.scan.selective import arguments, ops

MODULE = "compressm.scan.selective.triton"
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state")
CASES = {  # batch, L, d, N; steps of a tile forward and backward and of a period; programs wanted
    "segments, the last short, an odd N": ((2, 13, 3, 3), (4, 2, 8), 100),
    "one segment, two blocks of channels": ((2, 11, 70, 2), (4, 4, 8), 1),
    "segments of two periods": ((1, 16, 33, 1), (2, 4, 4), 3),
    "one step": ((1, 1, 1, 12), (2, 1, 4), 100),
    "blocks of channels in parts": ((1, 2, 33, 18), (2, 2, 2), 3),
    "as on a card": ((1, 35, 3, 2), (16, 16, 32), 4),
}
Interpreted = Callable[..., tuple[Any, ...]]


def found(
    interpreted: Interpreted,
    given: dict[str, Tensor],
    through: str,
    steps: tuple[int, int, int],
    programs: int,
    softplus: bool,
) -> dict[str, Tensor]:
    """Outputs, final state and gradients, with the weights of the oracle's ``gradients``."""
    forward, backward, period = steps
    settings: dict[str, Any] = {"PERIOD": period, "programs": programs, "_CARRY": {"BLOCK": 4}}
    # Sums of two blocks of lanes to a tile are made by no setting of ours, and could be.
    block = 64 if given["u"].shape[2] > 64 > 30 * given["A"].shape[1] else 32
    settings |= {"_TILES": {"STEPS": forward}, "_GRADIENTS": {"STEPS": backward, "BLOCK": block}}
    *operands, state = (given[name].detach() if name in given else None for name in NAMES)
    y, final, plain, before = interpreted(
        MODULE, "scan_forward", (*operands, state), settings, softplus=softplus, keep=True
    )
    generator = torch.Generator().manual_seed(1)
    weight_y, weight_final = (
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)
    )
    ends = (None if through == "final" else weight_y, None if through == "y" else weight_final)
    grads = interpreted(
        MODULE, "scan_backward", (*ends, *operands, plain, before), settings, softplus=softplus
    )
    named = dict(zip(NAMES, grads, strict=True))
    return {"y": y, "final": final} | {f"grad_{name}": named[name] for name in given}


@pytest.mark.parametrize("softplus", [False, True], ids=["steps", "softplus"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_every_gradient_match_the_definition(
    oracle: SimpleNamespace,
    interpreted: Interpreted,
    case: tuple[tuple[int, ...], tuple[int, int, int], int],
    softplus: bool,
) -> None:
    shape, steps, programs = case
    for optional, through in ((("D", "z", "delta_bias", "state"), "both"), ((), "y"), (("state",), "final")):
        given = oracle.operands(*shape, torch.float32, given=optional)
        wanted = oracle.gradients(oracle.naive, oracle.wide(given), through=through, delta_softplus=softplus)
        made = found(interpreted, given, through, steps, programs, softplus)
        wrong = {k: e for k, e in oracle.errors(made, wanted).items() if not e <= 1e-5}
        assert not wrong, (through, wrong)


def test_rows_may_be_rounded_and_parts_of_longer_ones(
    oracle: SimpleNamespace, interpreted: Interpreted
) -> None:
    given = oracle.operands(2, 11, 40, 3, torch.float32, given=("D", "z", "delta_bias", "state"))
    for name in ("u", "delta", "B", "C", "z"):
        given[name] = given[name].detach().bfloat16().float().requires_grad_()
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), delta_softplus=True)
    whole = torch.cat((given["u"], given["z"]), dim=2).detach().bfloat16()
    rounded = given | dict(zip(("u", "z"), whole.chunk(2, dim=2), strict=True))
    rounded |= {name: given[name].bfloat16() for name in ("delta", "B", "C")}
    made = found(interpreted, rounded, "both", (4, 4, 8), 3, True)
    for name in ("u", "delta", "B", "C", "z"):
        assert made[f"grad_{name}"].dtype == torch.bfloat16
    assert (made["y"].dtype, made["final"].dtype, made["grad_A"].dtype) == (
        torch.bfloat16,
        *[torch.float32] * 2,
    )
    errors = oracle.errors(made, wanted)
    assert max(errors.values()) < 2e-2, errors
    # What is not rounded on its way out is as exact as ever, but for the outputs' gradient.
    assert errors["final"] < 1e-6


def test_cuda_tensors_go_to_triton_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
    monkeypatch.setattr(card, "HAS_TRITON", False)
    assert not arguments.served(asked)
    monkeypatch.setattr(card, "HAS_TRITON", True)
    assert arguments.served(asked)
    assert not arguments.served(SimpleNamespace(device=asked.device, dtype=torch.float64))
    assert arguments.served(SimpleNamespace(device=asked.device, dtype=torch.bfloat16))
    assert ops._kernels(torch.zeros(1)).__name__ == "compressm.scan.selective.cpu"
    pytest.importorskip("triton", reason="Triton has no wheels for this platform")
    assert ops._kernels(asked).__name__ == MODULE


@pytest.mark.parametrize("gated", [False, True])
def test_cuda_tensors_are_traced_without_a_device(gated: bool) -> None:
    pytest.importorskip("triton", reason="Triton has no wheels for this platform")
    with FakeTensorMode():
        sizes = [(2, 40, 5), (2, 40, 5), (5, 3), (2, 40, 3), (2, 40, 3), (5,), (2, 40, 5), (5,), (2, 5, 3)]
        given: list[Tensor | None] = [torch.empty(size, device="cuda") for size in sizes]
        given[6] = given[6] if gated else None
        y, final, plain, before = ops.selective_scan_op(*given, True, True)
        grads = ops.selective_scan_backward_op(y, final, *given[:-1], plain, before, True)
    sizes[6] = sizes[6] if gated else (0,)
    assert [tuple(x.shape) for x in (y, final, *grads)] == [(2, 40, 5), (2, 5, 3), *sizes]
    assert (plain.numel(), before.numel()) == (0, 2 * 2 * 4 * 5)
    assert {x.device.type for x in (y, final, plain, before, *grads)} == {"cuda"}


def test_weak_and_strong_decays_keep_their_digits(oracle: SimpleNamespace, interpreted: Interpreted) -> None:
    given = oracle.operands(1, 9, 2, 3, torch.float32, given=("state",))
    given["A"] = torch.tensor([[-1e-4, -1.0, 0.0], [-128.0, -1e4, -3.0]]).requires_grad_()
    given["delta"] = (given["delta"].detach() - 7).requires_grad_()
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), delta_softplus=True)
    made = found(interpreted, given, "both", (4, 2, 4), 100, True)
    wrong = {k: e for k, e in oracle.errors(made, wanted).items() if not e <= 3e-6}
    assert not wrong
