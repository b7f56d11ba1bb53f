"""The claims of the room on systems of every kind; a slice of ``benchmarks/random_systems.py``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.lti import DiagonalSystem, balance, singular_perturbation

REALIZATIONS = ("real", "complex")
FAMILIES = (
    "disc",
    "ring",
    "large",
    "near_circle",
    "clustered",
    "repeated",
    "rank_deficient",
    "silent",
    "badly_scaled",
    "real_poles",
    "near_real",
    "nearly_defective",
    "merging",
    "all_pass",
    "relaxation",
)


def _arrays(families, system: DiagonalSystem):
    tensors = (system.log_A, system.B, system.C, system.direct_matrix())
    return families.Matrices(*(tensor.numpy() for tensor in tensors))


def test_every_family_is_named_here(families) -> None:
    assert set(families.FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("realization", REALIZATIONS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 2**20),
    share=st.floats(0, 1),
    by_order=st.booleans(),
)
def test_stable_and_within_the_bound(
    families, draw, realization: str, family: str, seed: int, share: float, by_order: bool
) -> None:
    system = draw(family, seed)
    balancing = balance(system, realization)
    if by_order:
        order = 1 + round(share * (system.state_dim - 1))
        reduction = balancing.truncate(order)
        assert reduction.order <= order
    else:
        keep = 1 + round(share * (len(balancing.hankel_singular_values) - 1))
        reduction = balancing.truncate(keep=keep)
        assert reduction.kept <= keep
    assert bool((reduction.system.log_A.real < 0).all())
    error = families.frequency_error(families.draw(family, seed), _arrays(families, reduction.system))
    floor = 1e-9 * float(reduction.hankel_singular_values[0])
    assert error <= reduction.error_bound * (1 + 1e-6) + floor
    assert reduction.error >= error * (1 - 1e-6) - floor
    assert bool(reduction.note) or reduction.limited_by is None


@pytest.mark.parametrize("realization", REALIZATIONS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(("disc", "ring", "clustered", "badly_scaled", "near_real", "merging")),
    seed=st.integers(0, 2**20),
    share=st.floats(0, 1),
)
def test_singular_perturbation_keeps_the_gain_at_rest(
    draw, realization: str, family: str, seed: int, share
) -> None:
    system = draw(family, seed)
    order = 1 + round(share * (system.state_dim - 1))
    try:
        reduction = singular_perturbation(system, order, realization)
    except ValueError as error:
        assert "reduced eigenvalue has modulus" in str(error)  # noqa: PT017 - a size that cannot be expressed
        return
    at_rest = torch.zeros(1, dtype=torch.float64)
    gains = [s.frequency_response(at_rest)[0] for s in (system, reduction.system)]
    sigma = float(reduction.hankel_singular_values[0])
    assert float((gains[0] - gains[1]).abs().max()) <= 1e-8 * max(sigma, float(gains[0].abs().max()))
    assert reduction.error <= reduction.error_bound * (1 + 1e-6) + 1e-8 * sigma
