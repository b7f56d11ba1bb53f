"""Triton's kernels compute the definition, and its gradients; interpreted, they need no graphics card."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from compressm.scan.lti import ops
from compressm.scan.runtime import card

MODULE = "compressm.scan.lti.triton"
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}
CASES = {  # batch, L, H, P, N; programs wanted
    "chunks, the last short": ((2, 11, 3, 2, 5), 6),
    "one chunk": ((2, 5, 2, 3, 12), 1),
    "one step": ((1, 1, 1, 1, 12), 8),
    "two blocks of states": ((1, 6, 1, 2, 37), 4),
}
Interpreted = Callable[..., tuple[Any, ...]]


def found(
    interpreted: Interpreted, given: dict[str, Tensor], through: str, programs: int, keep: str, reverse: bool
) -> dict[str, Tensor]:
    """Outputs, final state and gradients, with the weights of the oracle's ``gradients``."""
    settings = {"programs": programs, "STEPS": 4, "MIN_LENGTH": 4}
    operands = [given[name].detach() for name in ("u", "lam", "B", "C")]
    operands += [given["state"].detach() if "state" in given else None]
    y, final, kept = interpreted(
        MODULE, "scan_forward", tuple(operands), settings, reverse=reverse, keep=keep
    )
    generator = torch.Generator().manual_seed(1)
    weight_y, weight_final = (
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)
    )
    ends = (None if through == "final" else weight_y, None if through == "y" else weight_final)
    grads = interpreted(
        MODULE, "scan_backward", (*ends, *operands, kept), settings, reverse=reverse, keep=keep
    )
    return {"y": y, "final": final} | {f"grad_{n}": g for n, g in zip(given, grads, strict=False)}


@pytest.mark.parametrize(
    ("reverse", "dtype"), [(False, torch.float32), (True, torch.float32), (True, torch.float64)], ids=str
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_every_gradient_match_the_definition(
    oracle: SimpleNamespace,
    interpreted: Interpreted,
    case: tuple[tuple[int, ...], int],
    reverse: bool,
    dtype: torch.dtype,
) -> None:
    shape, programs = case
    for state, through, keep in (
        (True, "both", "states"),
        (False, "y", "checkpoints"),
        (True, "final", "checkpoints"),
    ):
        given = oracle.operands(*shape, dtype, state=state)
        wanted = oracle.gradients(oracle.naive, given, through=through, reverse=reverse)
        made = found(interpreted, given, through, programs, keep, reverse)
        wrong = {k: e for k, e in oracle.errors(made, wanted).items() if not e <= TOLERANCE[dtype]}
        assert not wrong, (through, wrong)


@pytest.mark.parametrize("reverse", [False, True])
def test_half_precision_rounds_what_products_take_and_give(
    oracle: SimpleNamespace, interpreted: Interpreted, reverse: bool
) -> None:
    """What is rounded are rows and weights; the recurrence is not, or many steps would lose the states."""
    given = oracle.operands(2, 40, 6, 5, 9, torch.float32, state=True)
    u = given["u"].detach().bfloat16()
    given["u"] = u.float().requires_grad_()
    wanted = oracle.gradients(oracle.naive, given, reverse=reverse)
    settings = {"programs": 20, "STEPS": 4, "MIN_LENGTH": 8}
    _, *rest = (given[name].detach() for name in ("u", "lam", "B", "C", "state"))
    options: dict[str, Any] = {"reverse": reverse, "half": True}
    for keep in ("states", "checkpoints"):
        y, final, kept = interpreted(MODULE, "scan_forward", (u, *rest), settings, keep=keep, **options)
        assert (y.dtype, final.dtype, kept.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
        generator = torch.Generator().manual_seed(1)
        ends = tuple(
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)
        )
        grads = interpreted(MODULE, "scan_backward", (*ends, u, *rest, kept), settings, keep=keep, **options)
        assert [grad.dtype for grad in grads] == [torch.bfloat16, *[torch.float32] * 4]
        made = {"y": y, "final": final} | {f"grad_{n}": g for n, g in zip(given, grads, strict=False)}
        errors = oracle.errors(made, wanted)
        assert max(errors.values()) < 2e-2, errors
        assert min(errors.values()) > 1e-4, errors


def test_long_memory_keeps_its_digits(oracle: SimpleNamespace, interpreted: Interpreted) -> None:
    given = oracle.operands(1, 80, 2, 2, 3, torch.float32)
    radius = torch.tensor([0.9999, 0.99, 1.0])
    given["lam"] = (radius * given["lam"] / given["lam"].norm(dim=0)).detach().requires_grad_()
    wanted = oracle.gradients(oracle.naive, given)
    made = found(interpreted, given, "both", 4, "states", False)
    assert max(oracle.errors(made, wanted).values()) < 2e-5


@pytest.mark.parametrize("has_triton", [False, True])
def test_cuda_tensors_go_to_triton_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, has_triton: bool
) -> None:
    if has_triton:
        pytest.importorskip("triton", reason="Triton has no wheels for this platform")
    monkeypatch.setattr(card, "HAS_TRITON", has_triton)
    asked = SimpleNamespace(device=torch.device("cuda", 0))
    assert ops._kernels(asked).__name__ == (MODULE if has_triton else "compressm.scan.lti.portable")
    assert ops._kernels(torch.zeros(1)).__name__ == "compressm.scan.lti.cpu"


@pytest.mark.parametrize("keep", ["states", "checkpoints"])
def test_cuda_tensors_are_traced_without_a_device(keep: str) -> None:
    with FakeTensorMode():
        sizes = ((2, 9, 3), (2, 20), (2, 20, 3), (2, 4, 20), (2, 2, 20))
        given = [torch.empty(size, device="cuda") for size in sizes]
        y, final, kept = ops.lti_scan_op(*given[:4], None, given[4], "scan", keep, False, False, True)
        grads = ops.lti_scan_backward_op(
            y, final, *given[:4], None, given[4], kept, "scan", keep, False, False
        )
    shapes = [tuple(x.shape) for x in (y, final, *grads)]
    assert shapes == [(2, 9, 4), (2, 2, 20), *sizes[:4], (0,), sizes[4]]
    assert tuple(kept.shape) == ((2, 9, 2, 24) if keep == "states" else (0,))
    assert {x.device.type for x in (y, final, kept, *grads)} == {"cuda"}


def test_plans_make_enough_programs_and_cover_the_sequence() -> None:
    plan_of = pytest.importorskip(MODULE, reason="Triton has no wheels for this platform").Plan.of
    for batch, L, N in ((50, 784, 256), (50, 784, 28), (1, 100_000, 64), (4, 1024, 93), (1, 1, 1)):
        plan = plan_of(batch, L, N, 2112)
        assert 32 * plan.blocks >= N > 32 * (plan.blocks - 1)
        assert plan.length * plan.chunks >= L > plan.length * (plan.chunks - 1)
        assert plan.length == 1 << (plan.length.bit_length() - 1)
        assert batch * plan.blocks * plan.chunks >= min(2112 // 4, batch * plan.blocks * L // 64)
    assert plan_of(50, 784, 384, 2112).chunks == 1
    assert plan_of(1, 100_000, 64, 2112).chunks > 1000
