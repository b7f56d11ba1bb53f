"""Kernels on rows in bfloat16: what they read is exact, what they write is rounded once, sums are not."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compressm.scan.selective.cpu import (
    LowRank,
    Operands,
    carry_of,
    run_adjoint,
    run_forward,
    scan_backward,
    scan_forward,
)
from compressm.scan.selective.layout import unpack

ROWS = ("u", "delta", "B", "C", "z")
ROUNDED = ("y", "u", "delta", "z")  # results, and gradients of rows, in bfloat16
SHAPES = [(1, 1, 1, 1), (2, 33, 40, 12), (1, 32, 33, 2), (3, 9, 2, 93), (1, 71, 130, 2), (17, 5, 65, 2)]


def halved(oracle: SimpleNamespace, *shape: int) -> dict[str, Tensor]:
    made = oracle.operands(*shape, torch.float32)
    return {
        name: value.detach().to(torch.bfloat16 if name in ROWS else torch.float32)
        for name, value in made.items()
    }


def weights(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    grad_y = torch.randn(given["u"].shape, generator=generator).bfloat16()
    return grad_y, torch.randn(given["state"].shape, generator=generator)


def wanted_of(oracle: SimpleNamespace, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the definition in float64, from the same rounded numbers."""
    exact = oracle.wide(given)
    y, final = oracle.naive(**exact, delta_softplus=True)
    ends = [weight.double() for weight in weights(given)]
    grads = torch.autograd.grad([y, final], list(exact.values()), ends)
    return {"y": y.detach(), "final": final.detach()} | dict(zip(exact, grads, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_rounded_once_and_everything_else_is_not(
    oracle: SimpleNamespace, shape: tuple[int, int, int, int]
) -> None:
    given = halved(oracle, *shape)
    bias, state = given["delta_bias"], given["state"]
    inputs = [given[name] for name in ("u", "delta", "A", "B", "C", "D", "z")]
    y, final, plain, before = scan_forward(*inputs, bias, state, softplus=True, keep=True)
    grads = scan_backward(*weights(given), *inputs, bias, plain, before, softplus=True)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state")
    found = {"y": y, "final": final} | dict(zip(names, grads, strict=True))
    for name in ROUNDED:
        assert found[name].dtype == torch.bfloat16, name
    for name, error in oracle.errors(found, wanted_of(oracle, given)).items():
        assert error < (2**-8 if name in ROUNDED else 1e-5), name


def test_time_steps_of_low_rank(oracle: SimpleNamespace) -> None:
    given = halved(oracle, 3, 37, 40, 4)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(3, 37, 5, generator=generator).bfloat16()
    weight = 0.3 * torch.randn(40, 5, generator=generator)
    exact = {"rows": rows.double().requires_grad_(), "weight": weight.double().requires_grad_()}
    wide = oracle.wide(given) | {"delta": exact["rows"] @ exact["weight"].mT}
    y, final = oracle.naive(**wide, delta_softplus=True)
    ends = [end.double() for end in weights(given)]
    wanted = torch.autograd.grad([y, final], list(exact.values()), ends)

    low = LowRank(rows, weight)
    inputs = Operands.of(given["u"], low, *(given[name] for name in ("A", "B", "C", "D", "z", "delta_bias")))
    found_y, found_final, plain, before = run_forward(
        inputs, carry_of(given["state"], inputs), softplus=True, keep=True
    )
    grad_y, grad_final = weights(given)
    grads = run_adjoint(inputs, grad_y, carry_of(grad_final, inputs), plain, before, softplus=True)
    found = {
        "final": unpack(found_final, 40),
        "rows": grads.sum_rows(37)[..., :5],
        "weight": grads.sum_channels(40)[:, 4:9],
    }
    for name, error in oracle.errors(found, dict(zip(found, (final, *wanted), strict=True))).items():
        assert error < 1e-5, name
    assert (found_y[..., :40].double() - y).norm() < 2**-8 * y.norm()


def test_a_slow_state_is_not_lost_to_rounding(oracle: SimpleNamespace) -> None:
    """Time steps of 2^-10: added to a state near 1 in bfloat16, they would vanish one by one."""
    given = halved(oracle, 1, 2048, 32, 1)
    for name, value in (("u", 1.0), ("delta", 2**-10), ("B", 1.0)):
        given[name] = torch.full_like(given[name], value)
    given["A"], given["state"] = torch.full((32, 1), -1e-3), torch.zeros(1, 32, 1)
    names = ("u", "delta", "A", "B", "C")
    _, found, _, _ = scan_forward(
        *(given[name] for name in names), None, None, None, None, softplus=False, keep=False
    )
    _, wanted = oracle.naive(**{name: given[name].double() for name in names})
    assert wanted.min() > 1.9
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=0.0)
