"""Triton's kernels compute the definition, and its gradients; interpreted, they need no graphics card.

The interpreter's process fills memory that was only allocated with NaN.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

MODULE = "compressm.scan.ssd.triton"
NAMES = ("q", "k", "v", "log_decay", "state")
Interpreted = Callable[..., tuple[Any, ...]]
both_decays = pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "per channel"])


def found(
    interpreted: Interpreted, given: dict[str, Tensor], through: str = "both", scale: float = 1.0
) -> dict[str, Tensor]:
    """Outputs, final state and gradients, with the weights of the oracle's ``gradients``."""
    *operands, state = (given[name].detach() if name in given else None for name in NAMES)
    y, final, entering = interpreted(
        MODULE, "scan_forward", (*operands, state), {}, scale=scale, keep=True
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    weight_y, weight_final = (
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, final)
    )
    ends = (None if through == "final" else weight_y, None if through == "y" else weight_final)
    grads = interpreted(MODULE, "scan_backward", (*ends, *operands, entering), {}, scale=scale)
    named = dict(zip(NAMES, grads, strict=True))
    return {"y": y, "final": final} | {f"grad_{name}": named[name] for name in given}


def above(
    oracle: SimpleNamespace, made: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float
) -> dict[str, float]:
    """Errors above the tolerance, or not a number."""
    return {name: e for name, e in oracle.errors(made, wanted).items() if not e <= tolerance}


@both_decays
@pytest.mark.parametrize(
    ("shape", "state", "through"),
    [
        pytest.param((1, 133, 1, 12, 5), True, "both", id="chunks, the last short"),
        pytest.param((2, 33, 3, 3, 4), True, "both", id="sequences and heads"),
        pytest.param((1, 9, 1, 93, 35), True, "both", id="blocks of keys and of values"),
        pytest.param((2, 1, 1, 1, 1), True, "both", id="one of everything"),
        pytest.param((1, 65, 1, 2, 17), False, "y", id="no state, and outputs alone"),
        pytest.param((1, 65, 1, 17, 2), True, "final", id="the final state alone"),
    ],
)
def test_outputs_and_every_gradient_match_the_definition(
    oracle: SimpleNamespace,
    interpreted: Interpreted,
    shape: tuple[int, ...],
    state: bool,
    through: str,
    per_channel: bool,
) -> None:
    given = oracle.operands(*shape, torch.float32, per_channel=per_channel, state=state, strength=0.1)
    wanted = oracle.gradients(oracle.naive, oracle.wide(given), through=through, scale=0.7)
    wrong = above(oracle, found(interpreted, given, through, 0.7), wanted, 1e-6)
    assert not wrong, wrong


@both_decays
@pytest.mark.parametrize("strength", [1e-4, 3.0, 100.0], ids=["weak", "strong", "strongest"])
def test_decays_of_any_strength_keep_their_digits(
    oracle: SimpleNamespace, interpreted: Interpreted, per_channel: bool, strength: float
) -> None:
    given = oracle.operands(1, 67, 1, 4, 3, torch.float32, per_channel=per_channel, strength=strength)
    wanted = oracle.gradients(oracle.naive, oracle.wide(given))
    made = found(interpreted, given)
    wrong = above(oracle, made, wanted, 2e-6)
    assert not wrong, wrong
    # Under strong decays the gradient of the decays is small: it has digits of its own all the same.
    distance = (made["grad_log_decay"].double() - wanted["grad_log_decay"]).norm()
    assert distance <= 1e-5 * wanted["grad_log_decay"].norm()


@both_decays
def test_weak_decays_after_the_strongest_keep_their_digits(
    oracle: SimpleNamespace, interpreted: Interpreted, per_channel: bool
) -> None:
    """Sums over the chunk are -1e6 or minus infinity by then: no difference of them would know the next."""
    for strongest in (-1e6, -float("inf")):
        given = oracle.operands(1, 40, 1, 4, 3, torch.float32, per_channel=per_channel, strength=0.01)
        given["log_decay"].data[:, 3:13] = strongest
        wanted = oracle.gradients(oracle.naive, oracle.wide(given))
        wrong = above(oracle, found(interpreted, given), wanted, 1e-6)
        assert not wrong, (strongest, wrong)


@both_decays
def test_what_is_not_a_number_stays_so(
    oracle: SimpleNamespace, interpreted: Interpreted, per_channel: bool
) -> None:
    given = oracle.operands(1, 5, 1, 2, 2, torch.float32, per_channel=per_channel)
    given["log_decay"].data[:, 2] = float("nan")
    y, _, _ = interpreted(
        MODULE, "scan_forward", tuple(given[name].detach() for name in NAMES), {}, scale=1.0, keep=False
    )
    assert bool(y[:, 2:].isnan().all())


def test_nothing_is_kept_without_a_gradient(oracle: SimpleNamespace, interpreted: Interpreted) -> None:
    given = oracle.operands(1, 3, 1, 2, 2, torch.float32, per_channel=False, state=False)
    operands = (*(given[name].detach() for name in NAMES[:4]), None)
    assert interpreted(MODULE, "scan_forward", operands, {}, scale=1.0, keep=False)[2].numel() == 0
